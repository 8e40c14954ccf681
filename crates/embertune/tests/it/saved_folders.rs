//! What is saved can be loaded again, is what was in memory, and belongs to the base it came from.

use std::fs;
use std::path::Path;

use embertune::model::{EmbeddingModel, Overrides};
use embertune::text::{Prompts, Role};
use embertune_kernels::Ops;
use embertune_kernels::cpu::Cpu;
use embertune_kernels::ops::Pooling;
use serde_json::{Value, json};

use crate::folders::{self, edit, read_weights};
use crate::golden;
use crate::models::{batch, load, pooled, tokenize};

const TEXTS: [&str; 4] = ["", "boundary layer", "heat transfer in slip flow", "[PAD] <pad> a literal token"];

fn read_json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).expect("a file")).expect("JSON")
}

/// Moves every weight, so that nothing can pass by copying the base.
fn disturb(model: &mut EmbeddingModel<Cpu>) {
    let ops = model.shared_ops();
    for param in &mut model.parameters_mut().list {
        ops.scale(&mut param.value, 1.01);
    }
    model.parameters_mut().repack(&ops);
}

fn vectors(model: &EmbeddingModel<Cpu>) -> Vec<f32> {
    model.encode(&batch(&tokenize(model, &TEXTS, None)))
}

#[test]
fn a_saved_model_gives_the_same_vectors_and_keeps_the_names_of_its_base() {
    let of_other_kinds = ["tiny-mpnet", "tiny-roberta", "tiny-distilbert"];
    let of_bert = ["tiny-bert", "tiny-bert-st6", "tiny-bert-bf16", "tiny-bert-f16", "tiny-bert-prefix"];
    for name in of_other_kinds.into_iter().chain(of_bert) {
        let Some(base) = golden::golden(name) else { return };
        let overrides = if name.ends_with("prefix") { pooled(Pooling::Cls, true) } else { Overrides::default() };
        let mut model = load(Cpu::new(), &base, &overrides);
        disturb(&mut model);
        let parent = tempfile::tempdir().expect("a folder");
        let target = parent.path().join("new/tuned");
        model.save(&target).expect("a saved model");

        let again = load(Cpu::new(), &target, &Overrides::default());
        assert_eq!(vectors(&model), vectors(&again), "{name}");
        assert_eq!(model.prompts(), again.prompts());
        assert_eq!(model.max_seq_length(), again.max_seq_length());
        assert_eq!(model.is_normalized(), again.is_normalized());

        let is_head = |name: &str| name.starts_with("cls.") || name.starts_with("vocab_");
        let names = |folder: &Path| -> Vec<(String, Vec<usize>)> {
            let tensors = read_weights(&folder.join("model.safetensors"));
            tensors.into_iter().filter(|t| !is_head(&t.0)).map(|t| (t.0, t.2)).collect()
        };
        assert_eq!(names(&base), names(&target), "{name}");
        let left: Vec<_> = fs::read_dir(parent.path().join("new")).expect("a folder").collect();
        assert_eq!(left.len(), 1, "{name}: only the folder itself");
    }
}

#[test]
fn the_files_of_the_tokenizer_and_the_config_are_those_of_the_base() {
    let Some(base) = golden::golden("tiny-bert") else { return };
    let parent = tempfile::tempdir().expect("a folder");
    let target = parent.path().join("tuned");
    load(Cpu::new(), &base, &Overrides::default()).save(&target).expect("a saved model");
    for name in ["config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt"] {
        assert_eq!(fs::read(base.join(name)).expect("a file"), fs::read(target.join(name)).expect("a file"), "{name}");
    }
    for name in ["modules.json", "1_Pooling/config.json", "sentence_bert_config.json"] {
        assert_eq!(read_json(&base.join(name)), read_json(&target.join(name)), "{name}");
    }
}

#[test]
fn tensors_that_are_not_trained_are_written_back_byte_for_byte() {
    for (name, expected) in [("tiny-bert", 2), ("tiny-bert-f16", 2), ("tiny-bert-prefix", 3)] {
        let Some(base) = golden::golden(name) else { return };
        let parent = tempfile::tempdir().expect("a folder");
        let target = parent.path().join("tuned");
        load(Cpu::new(), &base, &pooled(Pooling::Mean, true)).save(&target).expect("a saved model");
        let untrained = |folder: &Path| {
            let tensors = read_weights(&folder.join("model.safetensors"));
            let is_untrained = |name: &str| name.contains("pooler.") || name.ends_with("embeddings.position_ids");
            tensors.into_iter().filter(|tensor| is_untrained(&tensor.0)).collect::<Vec<_>>()
        };
        assert_eq!(untrained(&base).len(), expected, "{name}");
        assert_eq!(untrained(&base), untrained(&target), "{name}");
    }
}

#[test]
fn half_precision_models_are_written_as_float32_and_say_so() {
    for name in ["tiny-bert-f16", "tiny-bert-bf16"] {
        let Some(base) = golden::golden(name) else { return };
        let parent = tempfile::tempdir().expect("a folder");
        let target = parent.path().join("tuned");
        load(Cpu::new(), &base, &Overrides::default()).save(&target).expect("a saved model");
        let mut expected = read_json(&base.join("config.json"));
        expected["torch_dtype"] = json!("float32");
        assert_eq!(read_json(&target.join("config.json")), expected);
        let tensors = read_weights(&target.join("model.safetensors"));
        assert!(tensors.iter().all(|tensor| tensor.1 == "F32" || tensor.0.starts_with("pooler.")));
    }
}

#[test]
fn overrides_travel_with_the_saved_model() {
    let Some(base) = golden::golden("tiny-bert") else { return };
    let overrides = Overrides {
        pooling: Some(Pooling::LastToken),
        normalize: Some(false),
        query_prompt: Some("ask: ".to_owned()),
        passage_prompt: Some("tell: ".to_owned()),
        max_seq_length: Some(20),
    };
    let model = load(Cpu::new(), &base, &overrides);
    let parent = tempfile::tempdir().expect("a folder");
    let target = parent.path().join("tuned");
    model.save(&target).expect("a saved model");
    let again = load(Cpu::new(), &target, &Overrides::default());
    assert_eq!(*again.prompts(), Prompts { query: "ask: ".to_owned(), passage: "tell: ".to_owned() });
    assert_eq!((again.max_seq_length(), again.is_normalized()), (20, false));
    assert_eq!(vectors(&model), vectors(&again));
}

#[test]
fn prompts_are_found_under_all_their_names() {
    let Some(base) = golden::golden("tiny-bert") else { return };
    let cases = [
        (json!({"query": "q: ", "passage": "p: "}), json!(null), ["q: ", "p: "]),
        (json!({"query": "q: ", "corpus": "c: "}), json!(null), ["q: ", "c: "]),
        (json!({"query": "q: ", "document": "d: ", "passage": "p: "}), json!(null), ["q: ", "d: "]),
        (json!({"query": "q: "}), json!("query"), ["q: ", ""]),
        (json!({"any": "x: "}), json!("any"), ["x: ", "x: "]),
        (json!({}), json!(null), ["", ""]),
    ];
    for (prompts, default, expected) in cases {
        let copy = folders::copy(&base);
        edit(copy.path(), "config_sentence_transformers.json", |config| {
            config["prompts"] = prompts.clone();
            config["default_prompt_name"] = default;
        });
        let model = load(Cpu::new(), copy.path(), &Overrides::default());
        assert_eq!([model.prompts().of(Role::Query), model.prompts().of(Role::Passage)], expected, "{prompts}");
        let target = copy.path().join("tuned");
        model.save(&target).expect("a saved model");
        assert_eq!(model.prompts(), load(Cpu::new(), &target, &Overrides::default()).prompts(), "{prompts}");
        let written = read_json(&target.join("config_sentence_transformers.json"));
        assert_eq!(written["prompts"]["document"], expected[1], "{prompts}");
    }
}

#[test]
fn the_maximum_length_is_found_where_each_version_writes_it() {
    let Some(base) = golden::golden("tiny-bert") else { return };
    let length = |change: &dyn Fn(&Path)| {
        let copy = folders::copy(&base);
        change(copy.path());
        load(Cpu::new(), copy.path(), &Overrides::default()).max_seq_length()
    };
    let no_sentence_bert = |folder: &Path| fs::remove_file(folder.join("sentence_bert_config.json")).expect("a file");
    assert_eq!(length(&|_| {}), 64);
    assert_eq!(length(&|folder| edit(folder, "sentence_bert_config.json", |c| c["max_seq_length"] = json!(4096))), 128);
    assert_eq!(length(&no_sentence_bert), 128);
    for (model_max_length, expected) in [(json!(100), 100), (json!(1e30), 128), (json!(null), 128)] {
        let change = |folder: &Path| {
            no_sentence_bert(folder);
            edit(folder, "tokenizer_config.json", |config| config["model_max_length"] = model_max_length.clone());
        };
        assert_eq!(length(&change), expected);
    }
}

#[test]
fn dense_layers_are_computed_trained_and_saved() {
    let Some(base) = golden::golden("tiny-bert") else { return };
    let copy = folders::copy(&base);
    edit(copy.path(), "modules.json", |modules| {
        let list = modules.as_array_mut().expect("a list");
        list.insert(2, json!({"idx": 2, "name": "2", "path": "2_Dense", "type": "sentence_transformers.models.Dense"}));
    });
    let dense = copy.path().join("2_Dense");
    fs::create_dir(&dense).expect("a folder");
    let config = json!({"in_features": 48, "out_features": 5, "bias": true, "activation_function": "torch.nn.modules.activation.Tanh"});
    fs::write(dense.join("config.json"), config.to_string()).expect("a file");
    let (weight, bias) = (embertune_kernels::testing::seeded(5 * 48, 1), embertune_kernels::testing::seeded(5, 2));
    let bytes = |values: &[f32]| values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<_>>();
    let tensors = [
        ("linear.bias".to_owned(), "F32".to_owned(), vec![5], bytes(&bias)),
        ("linear.weight".to_owned(), "F32".to_owned(), vec![5, 48], bytes(&weight)),
    ];
    folders::write_weights(&dense.join("model.safetensors"), &tensors);

    let plain = load(Cpu::new(), &base, &pooled(Pooling::Mean, false));
    let with_dense = load(Cpu::new(), copy.path(), &pooled(Pooling::Mean, false));
    assert_eq!(with_dense.dim(), 5);
    assert_eq!(with_dense.parameters().list.len(), plain.parameters().list.len() + 2);
    let (x, y) = (vectors(&plain), vectors(&with_dense));
    for (x, y) in x.chunks(48).zip(y.chunks(5)) {
        for (k, y) in y.iter().enumerate() {
            let sum: f32 = x.iter().zip(&weight[48 * k..]).map(|(x, w)| x * w).sum();
            assert!(((sum + bias[k]).tanh() - y).abs() < 1e-5);
        }
    }

    let target = copy.path().join("tuned");
    with_dense.save(&target).expect("a saved model");
    assert_eq!(read_weights(&target.join("2_Dense/model.safetensors")), tensors);
    assert_eq!(read_json(&target.join("2_Dense/config.json")), config);
    assert_eq!(vectors(&with_dense), vectors(&load(Cpu::new(), &target, &Overrides::default())));
}

#[test]
fn sharded_weights_are_read_as_one() {
    let Some(base) = golden::golden("tiny-bert") else { return };
    let copy = folders::copy(&base);
    let tensors = read_weights(&copy.path().join("model.safetensors"));
    fs::remove_file(copy.path().join("model.safetensors")).expect("a file");
    let mut weight_map = serde_json::Map::new();
    for (shard, tensors) in tensors.chunks(20).enumerate() {
        let name = format!("model-{shard}.safetensors");
        folders::write_weights(&copy.path().join(&name), tensors);
        weight_map.extend(tensors.iter().map(|tensor| (tensor.0.clone(), json!(name))));
    }
    let index = copy.path().join("model.safetensors.index.json");
    fs::write(&index, json!({"weight_map": weight_map}).to_string()).expect("a file");
    let whole = vectors(&load(Cpu::new(), &base, &Overrides::default()));
    assert_eq!(whole, vectors(&load(Cpu::new(), copy.path(), &Overrides::default())));
}

#[test]
fn an_existing_target_is_refused_and_left_alone() {
    let Some(base) = golden::golden("tiny-bert") else { return };
    let target = tempfile::tempdir().expect("a folder");
    let error = load(Cpu::new(), &base, &Overrides::default()).save(target.path()).expect_err("an error");
    assert!(error.to_string().contains("exists already"), "{error}");
    assert_eq!(fs::read_dir(target.path()).expect("a folder").count(), 0);
}

/// A model that cannot be right is not saved, and nothing is left behind.
#[test]
fn a_model_with_broken_weights_is_not_saved() {
    let Some(base) = golden::golden("tiny-bert") else { return };
    let mut model = load(Cpu::new(), &base, &Overrides::default());
    let ops = model.shared_ops();
    ops.scale(&mut model.parameters_mut().list[0].value, f32::NAN);
    let parent = tempfile::tempdir().expect("a folder");
    let error = model.save(&parent.path().join("tuned")).expect_err("an error");
    assert!(error.to_string().contains("holds the value NaN"), "{error}");
    assert_eq!(fs::read_dir(parent.path()).expect("a folder").count(), 0);
}

/// New files have the permissions that any new file has, not those of a temporary one.
#[cfg(unix)]
#[test]
fn saved_files_have_the_permissions_of_new_files() {
    use std::os::unix::fs::PermissionsExt;
    let Some(base) = golden::golden("tiny-bert") else { return };
    let parent = tempfile::tempdir().expect("a folder");
    let target = parent.path().join("tuned");
    load(Cpu::new(), &base, &Overrides::default()).save(&target).expect("a saved model");
    fs::write(parent.path().join("file"), "").expect("a file");
    fs::create_dir(parent.path().join("folder")).expect("a folder");
    let mode = |path: &Path| fs::metadata(path).expect("an entry").permissions().mode();
    assert_eq!(mode(&target.join("model.safetensors")), mode(&parent.path().join("file")));
    assert_eq!(mode(&target), mode(&parent.path().join("folder")));
}

/// For the check by sentence-transformers itself, which is not part of these tests: writes tuned models to
/// `$EMBERTUNE_SAVE_TO/<name>` with the vectors that they should give.
#[test]
#[ignore = "writes folders for a check with Python"]
fn save_models_for_the_check_in_python() {
    let Some(folder) = std::env::var_os("EMBERTUNE_SAVE_TO").map(std::path::PathBuf::from) else { return };
    let Some(texts) = golden::json("encode.json").map(|json| json["texts"].clone()) else { return };
    fs::create_dir_all(&folder).expect("a folder");
    fs::write(folder.join("texts.json"), texts.to_string()).expect("a file");
    let texts = crate::models::texts(&texts);
    let names = ["tiny-bert", "tiny-mpnet", "tiny-bert-st6", "tiny-roberta", "tiny-xlm-roberta", "tiny-distilbert"];
    let bases = names.map(golden::golden);
    let real = ["all-MiniLM-L6-v2", "all-mpnet-base-v2"].map(golden::real_model);
    for base in bases.into_iter().chain(real).flatten() {
        let name = base.file_name().expect("a name").to_owned();
        let mut model = load(Cpu::new(), &base, &Overrides::default());
        disturb(&mut model);
        model.save(&folder.join(&name)).expect("a saved model");
        let values = model.encode(&batch(&tokenize(&model, &texts, None)));
        let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        let tensor = ("embeddings".to_owned(), "F32".to_owned(), vec![texts.len(), model.dim()], bytes);
        folders::write_weights(&folder.join(name).with_extension("safetensors"), &[tensor]);
    }
}

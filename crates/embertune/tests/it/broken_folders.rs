//! Every way in which a model folder can be wrong gives an error that names it.

use std::fs;
use std::path::Path;

use embertune::model::{EmbeddingModel, Overrides};
use embertune::progress::Silent;
use embertune_kernels::cpu::Cpu;
use embertune_kernels::ops::Pooling;
use serde_json::json;

use crate::folders::{self, edit, edit_weights};
use crate::golden;

/// Breaks a copy of a golden folder and returns what loading says, error and hint.
fn message(name: &str, overrides: &Overrides, break_it: impl FnOnce(&Path)) -> Option<String> {
    let copy = folders::copy(&golden::golden(name)?);
    break_it(copy.path());
    let error = EmbeddingModel::load(Cpu::new(), copy.path(), overrides, &Silent).err().expect("an error");
    Some(format!("{error} | {}", error.hint().unwrap_or_default()))
}

/// Breaks `tiny-bert`; all of `expected` have to be in the message.
fn check(expected: &[&str], break_it: impl FnOnce(&Path)) {
    check_model("tiny-bert", expected, break_it);
}

fn check_model(name: &str, expected: &[&str], break_it: impl FnOnce(&Path)) {
    let Some(message) = message(name, &Overrides::default(), break_it) else { return };
    for part in expected {
        assert!(message.contains(part), "`{part}` is not in: {message}");
    }
}

fn remove(folder: &Path, name: &str) {
    fs::remove_file(folder.join(name)).expect("a file");
}

fn truncate(folder: &Path, len: u64) {
    let file = fs::OpenOptions::new().write(true).open(folder.join("model.safetensors")).expect("a file");
    file.set_len(len).expect("a shorter file");
}

#[test]
fn other_model_types_are_refused_with_the_supported_ones() {
    check(&["config.json", "`model_type` is `electra`", "`bert`, `mpnet`, `roberta`, `xlm-roberta`"], |folder| {
        edit(folder, "config.json", |config| config["model_type"] = json!("electra"));
    });
    check(&["`model_type` is `missing`"], |folder| {
        edit(folder, "config.json", |config| config["model_type"] = json!(null));
    });
}

#[test]
fn settings_that_change_the_numbers_are_refused() {
    let cases = [
        ("position_embedding_type", json!("relative_key"), "`position_embedding_type` is `relative_key`"),
        ("position_embedding_type", json!("alibi"), "`position_embedding_type` is `alibi`"),
        ("feed_forward_type", json!("geglu"), "`feed_forward_type` is `geglu`"),
        ("auto_map", json!({"AutoModel": "modeling.New"}), "Python code of its own"),
        ("pad_token_id", json!(-1), "`pad_token_id` is -1, it should be a token of 0 to 1996"),
        ("pad_token_id", json!(1997), "`pad_token_id` is 1997"),
        ("is_encoder_decoder", json!(true), "`is_encoder_decoder` is true"),
        ("hidden_act", json!("quick_gelu"), "`hidden_act` is `quick_gelu`"),
        ("hidden_act", json!(3), "`hidden_act` is 3, it should be a text"),
        ("is_decoder", json!(true), "`is_decoder` is true"),
        ("num_attention_heads", json!(5), "not a multiple of `num_attention_heads` 5"),
        ("hidden_size", json!(0), "`hidden_size` is 0"),
        ("hidden_size", json!(u64::MAX), "`hidden_size` is 18446744073709551615"),
        ("num_hidden_layers", json!(-1), "`num_hidden_layers` is -1"),
        ("vocab_size", json!(null), "`vocab_size` is missing"),
        ("hidden_dropout_prob", json!(1.0), "`hidden_dropout_prob` is 1"),
        ("layer_norm_eps", json!(0.0), "`layer_norm_eps` is 0"),
    ];
    for (key, value, expected) in cases {
        check(&["config.json", expected], |folder| edit(folder, "config.json", |config| config[key] = value));
    }
    let other_cases = [
        ("tiny-roberta", "position_embedding_type", json!("rotary"), "`position_embedding_type` is `rotary`"),
        ("tiny-roberta", "is_decoder", json!(true), "`is_decoder` is true"),
        (
            "tiny-roberta",
            "max_position_embeddings",
            json!(2),
            "`max_position_embeddings` is 2; the model needs at least 3",
        ),
        ("tiny-distilbert", "dim", json!(null), "`dim` is missing"),
        ("tiny-distilbert", "n_heads", json!(5), "`dim` 32 is not a multiple of `n_heads` 5"),
        ("tiny-distilbert", "activation", json!("mish"), "`activation` is `mish`"),
        ("tiny-distilbert", "attention_dropout", json!(2), "`attention_dropout` is 2"),
    ];
    for (model, key, value, expected) in other_cases {
        check_model(model, &["config.json", expected], |folder| {
            edit(folder, "config.json", |config| config[key] = value);
        });
    }
    check_model("tiny-mpnet", &["`relative_attention_num_buckets` is 64"], |folder| {
        edit(folder, "config.json", |config| config["relative_attention_num_buckets"] = json!(64));
    });
}

#[test]
fn tensors_that_do_not_fit_are_named() {
    let query = "encoder.layer.1.attention.self.query.weight";
    check(&[&format!("the tensor `{query}` is missing")], |folder| {
        edit_weights(folder, |tensors| tensors.retain(|tensor| tensor.0 != query));
    });
    check(&["the tensor `surprise` should not be there"], |folder| {
        edit_weights(folder, |tensors| tensors.push(("surprise".into(), "F32".into(), vec![1], vec![0; 4])));
    });
    check(&["encoder.layer.2.attention.output.LayerNorm.bias` and 15 others should not be there"], |folder| {
        edit(folder, "config.json", |config| config["num_hidden_layers"] = json!(2));
    });
    check(&["the tensor `encoder.layer.3.attention.self.query.weight` is missing"], |folder| {
        edit(folder, "config.json", |config| config["num_hidden_layers"] = json!(1_u64 << 31));
    });
    check(
        &["`encoder.layer.0.intermediate.dense.weight` has the shape [96, 48], `config.json` makes it [64, 48]"],
        |folder| {
            edit(folder, "config.json", |config| config["intermediate_size"] = json!(64));
        },
    );
    check(&[&format!("the tensor `{query}` has the type I32")], |folder| {
        edit_weights(folder, |tensors| {
            tensors.iter_mut().filter(|tensor| tensor.0 == query).for_each(|tensor| tensor.1 = "I32".into());
        });
    });
    check(&[&format!("the tensor `{query}` holds the value NaN")], |folder| {
        edit_weights(folder, |tensors| {
            let tensor = tensors.iter_mut().find(|tensor| tensor.0 == query).expect("the tensor");
            tensor.3[..4].copy_from_slice(&f32::NAN.to_le_bytes());
        });
    });
    check(&["are the same part of the model"], |folder| {
        edit_weights(folder, |tensors| {
            let mut twin = tensors.iter().find(|tensor| tensor.0 == query).expect("the tensor").clone();
            twin.0 = format!("bert.{query}");
            tensors.push(twin);
        });
    });
}

#[test]
fn truncated_and_lying_weight_files_are_errors() {
    for len in [0, 7, 8, 100, 5000, 651_415] {
        check(&["model.safetensors", "copy or download it again"], |folder| truncate(folder, len));
    }
    let lies: [(&str, &str); 6] = [
        (r#"{"a":{"dtype":"F32","shape":[4611686018427387904],"data_offsets":[0,4]}}"#, "its header is broken"),
        (r#"{"a":{"dtype":"F32","shape":[4,4611686018427387904],"data_offsets":[0,4]}}"#, "its header is broken"),
        (r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[4,0]}}"#, "its header is broken"),
        (r#"{"a":{"dtype":"F32","shape":[1000],"data_offsets":[0,4000]}}"#, "should take 4000 bytes, but 4 are there"),
        (r#"{"a":{"dtype":"F99","shape":[1],"data_offsets":[0,4]}}"#, "its header is broken"),
        ("[1, 2", "its header is broken"),
    ];
    for (header, expected) in lies {
        check(&["model.safetensors", expected], |folder| {
            let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
            bytes.extend_from_slice(header.as_bytes());
            bytes.extend_from_slice(&[0; 4]);
            fs::write(folder.join("model.safetensors"), bytes).expect("a file");
        });
    }
    check(&["its header claims 18446744073709551615 bytes"], |folder| {
        fs::write(folder.join("model.safetensors"), [0xFF; 100]).expect("a file");
    });
}

#[test]
fn missing_weights_are_errors_with_a_hint() {
    check(&["there is no `model.safetensors` and no `pytorch_model.bin`"], |folder| {
        remove(folder, "model.safetensors")
    });
    check(&["pytorch_model.bin: cannot be used as an archive"], |folder| {
        let (old, new) = (folder.join("model.safetensors"), folder.join("pytorch_model.bin"));
        fs::rename(old, new).expect("another name");
    });
}

#[test]
fn missing_and_broken_files_are_named() {
    check(&["config.json: cannot read"], |folder| remove(folder, "config.json"));
    check(&["config.json: is not valid JSON"], |folder| fs::write(folder.join("config.json"), "{").expect("a file"));
    check(&["1_Pooling/config.json: cannot read"], |folder| remove(folder, "1_Pooling/config.json"));
    check(&["there is no `tokenizer.json` and no `vocab.txt`"], |folder| {
        remove(folder, "tokenizer.json");
        remove(folder, "vocab.txt");
    });
    check(&["tokenizer.json: cannot be used as a tokenizer"], |folder| {
        fs::write(folder.join("tokenizer.json"), "{}").expect("a file");
    });
}

#[test]
fn modules_that_we_do_not_compute_are_refused() {
    check(&["1_Pooling/config.json", "no pooling mode is switched on"], |folder| {
        edit(folder, "1_Pooling/config.json", |pooling| pooling["pooling_mode_mean_tokens"] = json!(false));
    });
    check(&["the poolings cls and mean are to be joined"], |folder| {
        edit(folder, "1_Pooling/config.json", |pooling| pooling["pooling_mode_cls_token"] = json!(true));
    });
    check(&["`pooling_mode` \"sum\" is unknown"], |folder| {
        edit(folder, "1_Pooling/config.json", |pooling| pooling["pooling_mode"] = json!("sum"));
    });
    check(&["the modules are Transformer, Pooling, WordWeights; supported are"], |folder| {
        edit(folder, "modules.json", |modules| modules[2]["type"] = json!("sentence_transformers.models.WordWeights"));
    });
    check(&["the path `../elsewhere` leads out of the model's folder"], |folder| {
        edit(folder, "modules.json", |modules| modules[1]["path"] = json!("../elsewhere"));
    });
    check(&["`truncate_dim` is 16"], |folder| {
        edit(folder, "config_sentence_transformers.json", |config| config["truncate_dim"] = json!(16));
    });
    check(&["`default_prompt_name` is `search`, which is not in `prompts`"], |folder| {
        edit(folder, "config_sentence_transformers.json", |config| config["default_prompt_name"] = json!("search"));
    });
}

#[test]
fn a_folder_without_modules_needs_to_be_told_how_to_pool() {
    check_model("tiny-bert-prefix", &["there is no `modules.json`", "`cls` for bge models; `mean` for gte"], |_| {});
}

#[test]
fn a_folder_of_something_else_is_said_to_be_none() {
    check(&["neither `modules.json` nor `config.json`"], |folder| {
        remove(folder, "modules.json");
        remove(folder, "config.json");
    });
}

#[test]
fn a_tokenizer_of_another_model_is_refused() {
    let Some(mpnet) = golden::golden("tiny-mpnet") else { return };
    check(&["the tokenizer has ids up to 2001, but the model has only 1997 words"], |folder| {
        fs::write(folder.join("tokenizer.json"), fs::read(mpnet.join("tokenizer.json")).expect("a file"))
            .expect("a file");
    });
}

#[test]
fn a_length_beyond_the_positions_is_refused() {
    let overrides = Overrides { max_seq_length: Some(129), pooling: Some(Pooling::Mean), ..Overrides::default() };
    let Some(message) = message("tiny-bert", &overrides, |_| {}) else { return };
    assert!(message.contains("a maximum length of 129 tokens is asked for, but the model has positions for 128"));
}

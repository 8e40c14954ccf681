//! Weights in `pytorch_model.bin`: read as PyTorch wrote them, and nothing in them executed, allocated or believed unseen.

use std::fs;
use std::path::Path;

use embertune::model::tensor_files::{self, Output, TensorFiles};
use embertune::model::{EmbeddingModel, Overrides};
use embertune_kernels::cpu::Cpu;
use embertune_kernels::dropout::splitmix64;
use serde_json::json;
use tempfile::TempDir;

use crate::folders::read_weights;
use crate::golden;
use crate::models::{batch, load, tokenize};

const BIN: &str = "pytorch_model.bin";

/// A folder whose weights are `bytes`.
fn folder_of(bytes: &[u8]) -> TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    fs::write(folder.path().join(BIN), bytes).expect("a file");
    folder
}

/// What opening these weights says, error and hint.
fn refused(bytes: &[u8]) -> String {
    let error = TensorFiles::open(folder_of(bytes).path()).err().expect("an error");
    format!("{error} | {}", error.hint().unwrap_or_default())
}

/// An archive with these entries as `torch.save` makes it.
fn archive(entries: &[(&str, &[u8])]) -> Vec<u8> {
    let (mut file, mut directory) = (Vec::new(), Vec::new());
    for (name, content) in entries {
        let name = format!("archive/{name}");
        let sizes = [content.len() as u32, content.len() as u32].map(u32::to_le_bytes).concat();
        let offset = (file.len() as u32).to_le_bytes();
        file.extend(
            [b"PK\x03\x04", &[0; 14][..], &sizes, &[name.len() as u8, 0, 0, 0], name.as_bytes(), content].concat(),
        );
        let lengths = [name.len() as u8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        directory.extend([b"PK\x01\x02", &[0; 16][..], &sizes, &lengths, &offset, name.as_bytes()].concat());
    }
    let (size, start) = ((directory.len() as u32).to_le_bytes(), (file.len() as u32).to_le_bytes());
    file.extend([&directory, &b"PK\x05\x06"[..], &[0; 8], &size, &start, &[0; 2]].concat());
    file
}

/// A whole number of any size.
fn number(value: i64) -> Vec<u8> {
    [&[0x8A, 8][..], &value.to_le_bytes()].concat()
}

/// A pickle of one tensor `w` that claims these sizes.
fn claim(storage: i64, offset: i64, shape: &[i64], strides: &[i64]) -> Vec<u8> {
    let tuple =
        |sizes: &[i64]| [b"(".to_vec(), sizes.iter().flat_map(|&n| number(n)).collect(), b"t".to_vec()].concat();
    [
        b"\x80\x02}X\x01\x00\x00\x00wctorch._utils\n_rebuild_tensor_v2\n((X\x07\x00\x00\x00storagectorch\nFloatStorage\n".to_vec(),
        b"X\x01\x00\x00\x000X\x03\x00\x00\x00cpu".to_vec(),
        number(storage),
        b"tQ".to_vec(),
        number(offset),
        tuple(shape),
        tuple(strides),
        b"\x89ccollections\nOrderedDict\n)RtRs.".to_vec(),
    ]
    .concat()
}

fn of_pickle(pickle: &[u8]) -> Vec<u8> {
    archive(&[("data.pkl", pickle), ("data/0", &[0; 24])])
}

/// Types, strides, offsets, shared storages, scalars and empty tensors are what PyTorch says they are.
#[test]
fn tensors_of_every_layout_equal_those_that_pytorch_reads() {
    let Some(pickles) = golden::golden("pickles") else { return };
    let folder = folder_of(&fs::read(pickles.join("tensors.bin")).expect("a file"));
    let files = TensorFiles::open(folder.path()).expect("weights");
    let untouched: Vec<_> = files.names().map(|name| files.read_untouched(name).expect("a tensor")).collect();
    let written = folder.path().join("written.safetensors");
    tensor_files::write(&written, untouched.iter().map(Output::untouched).collect()).expect("a file");
    let expected = read_weights(&pickles.join("tensors.safetensors"));
    assert_eq!(expected.len(), 16);
    assert_eq!(read_weights(&written), expected);
}

#[test]
fn a_model_of_pickled_weights_is_saved_as_safetensors_under_the_same_names() {
    let Some(base) = golden::golden("tiny-xlm-roberta") else { return };
    assert!(!base.join("model.safetensors").exists());
    let model = load(Cpu::new(), &base, &Overrides::default());
    let parent = tempfile::tempdir().expect("a folder");
    let target = parent.path().join("tuned");
    model.save(&target).expect("a saved model");
    assert!(!target.join(BIN).exists());

    let mut names: Vec<_> =
        model.parameters().list.iter().flat_map(|p| &p.parts).map(|part| part.name.clone()).collect();
    names.extend(["pooler.dense.bias", "pooler.dense.weight"].map(str::to_owned));
    names.sort();
    let saved: Vec<_> = read_weights(&target.join("model.safetensors")).into_iter().map(|tensor| tensor.0).collect();
    assert_eq!(saved, names);

    let vectors = |model: &EmbeddingModel<Cpu>| model.encode(&batch(&tokenize(model, &["", "hello world"], None)));
    let again = load(Cpu::new(), &target, &Overrides::default());
    assert_eq!(vectors(&model), vectors(&again));
    assert!(again.is_normalized());
    // The saved weights come first, also where pickled ones are beside them.
    fs::write(target.join(BIN), "broken").expect("a file");
    assert_eq!(vectors(&model), vectors(&load(Cpu::new(), &target, &Overrides::default())));
}

#[test]
fn sharded_pickles_are_read_as_one() {
    let index = |folder: &Path| {
        let weight_map = json!({"a": "pytorch_model-1.bin", "w": "pytorch_model-2.bin"});
        fs::write(folder.join("pytorch_model.bin.index.json"), json!({"weight_map": weight_map}).to_string())
            .expect("a file");
    };
    let w = claim(6, 0, &[2, 3], &[3, 1]);
    let renamed: Vec<u8> = w.iter().enumerate().map(|(i, &byte)| if i == 8 { b'a' } else { byte }).collect();
    let folder = tempfile::tempdir().expect("a folder");
    index(folder.path());
    fs::write(folder.path().join("pytorch_model-1.bin"), of_pickle(&renamed)).expect("a file");
    fs::write(folder.path().join("pytorch_model-2.bin"), of_pickle(&w)).expect("a file");
    let files = TensorFiles::open(folder.path()).expect("weights");
    assert_eq!(files.names().collect::<Vec<_>>(), ["a", "w"]);
    assert_eq!(files.shape("a"), Some(&[2, 3][..]));

    fs::write(folder.path().join("pytorch_model-1.bin"), of_pickle(&w)).expect("a file");
    let error = TensorFiles::open(folder.path()).err().expect("an error");
    assert!(error.to_string().contains("the tensor `w` is also in another shard"), "{error}");
}

#[test]
fn a_pickle_that_calls_the_system_is_refused_and_not_executed() {
    let folder = tempfile::tempdir().expect("a folder");
    let marker = folder.path().join("executed");
    let command = format!("touch {}", marker.display());
    let mut pickle = b"\x80\x02cos\nsystem\nX".to_vec();
    pickle.extend((command.len() as u32).to_le_bytes());
    pickle.extend(command.bytes());
    pickle.extend(b"\x85R.");
    let message = refused(&of_pickle(&pickle));
    assert!(message.contains("pytorch_model.bin") && message.contains("it asks for `os.system`"), "{message}");
    assert!(!marker.exists());
}

#[test]
fn files_of_other_kinds_are_refused_with_the_reason() {
    let Some(pickles) = golden::golden("pickles") else { return };
    for (name, expected) in [
        ("older.bin", ["before version 1.6", "save_pretrained"]),
        ("nested.bin", ["`model` is a dictionary, not a tensor", "model.safetensors"]),
        ("module.bin", ["it asks for `torch.nn.modules.linear.Linear`", "nothing of it was executed"]),
    ] {
        let message = refused(&fs::read(pickles.join(name)).expect("a file"));
        assert!(expected.iter().all(|part| message.contains(part)), "{name}: {message}");
    }
    let order = archive(&[("data.pkl", &claim(6, 0, &[6], &[1])), ("byteorder", b"big"), ("data/0", &[0; 24])]);
    assert!(refused(&order).contains("highest byte first"));
    assert!(refused(&archive(&[("data/0", &[0; 24])])).contains("without `data.pkl`"));
    assert!(
        refused(&archive(&[("data.pkl", &claim(6, 0, &[6], &[1]))])).contains("`archive/data/0`, which is missing")
    );
    assert!(refused(b"version https://git-lfs.github.com/spec/v1").contains("its directory is missing"));
}

/// What a tensor claims is held against the file before memory is taken for it.
#[test]
fn lying_sizes_are_refused() {
    let huge = i64::MAX;
    for (storage, offset, shape, strides, expected) in [
        (6, 0, &[7][..], &[1][..], "does not fit into its storage of 6 values"),
        (6, 1, &[6], &[1], "does not fit"),
        (6, 0, &[2, 3], &[4, 1], "does not fit"),
        (6, 0, &[1 << 40], &[0], "does not fit"),
        (6, 0, &[1 << 40, 1 << 40], &[0, 0], "does not fit"),
        (6, huge, &[2], &[huge], "does not fit"),
        (6, huge, &[1], &[1], "does not fit"),
        (7, 0, &[7], &[1], "is in a storage of 7 values of 4 bytes, but 24 bytes are there"),
        (huge, 0, &[6], &[1], "but 24 bytes are there"),
        (6, -1, &[6], &[1], "in a way that is not known"),
        (6, 0, &[-6], &[1], "in a way that is not known"),
        (6, 0, &[6], &[1, 1], "in a way that is not known"),
    ] {
        let message = refused(&of_pickle(&claim(storage, offset, shape, strides)));
        assert!(message.contains(expected), "{shape:?} {strides:?}: {message}");
    }
    let whole = TensorFiles::open(folder_of(&of_pickle(&claim(6, 0, &[3, 2], &[1, 3]))).path()).expect("weights");
    assert_eq!(whole.shape("w"), Some(&[3, 2][..]));
}

/// Cut off or changed anywhere, a file gives an error or other numbers, but no crash.
#[test]
fn damaged_files_are_survived() {
    let Some(pickles) = golden::golden("pickles") else { return };
    let whole = fs::read(pickles.join("tensors.bin")).expect("a file");
    for len in (0..whole.len()).step_by(7) {
        refused(&whole[..len]);
    }
    let folder = tempfile::tempdir().expect("a folder");
    let mut state = 3;
    let mut random = || {
        state = splitmix64(state);
        (state >> 32) as usize
    };
    for _ in 0..1500 {
        let mut changed = whole.clone();
        for _ in 0..1 + random() % 4 {
            // Mostly in the pickle and in the directory, which are the first and the last third.
            let at = match random() % 3 {
                0 => random() % changed.len(),
                1 => random() % (changed.len() / 3),
                _ => changed.len() - 1 - random() % (changed.len() / 3),
            };
            changed[at] = random() as u8;
        }
        fs::write(folder.path().join(BIN), &changed).expect("a file");
        if let Ok(files) = TensorFiles::open(folder.path()) {
            files.names().for_each(|name| drop(files.read_untouched(name)));
        }
    }
}

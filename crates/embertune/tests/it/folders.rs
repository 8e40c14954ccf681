//! Copies of model folders, to be changed and broken.

use std::fs;
use std::path::Path;

use serde_json::Value;
use tempfile::TempDir;

/// A copy of a model folder.
pub fn copy(folder: &Path) -> TempDir {
    let target = tempfile::tempdir().expect("a folder");
    copy_into(folder, target.path());
    target
}

fn copy_into(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).expect("a readable folder") {
        let entry = entry.expect("an entry");
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            fs::create_dir(&target).expect("a new folder");
            copy_into(&entry.path(), &target);
        } else {
            // Not `fs::copy`, which would copy that the file may not be written.
            fs::write(&target, fs::read(entry.path()).expect("a readable file")).expect("a new file");
        }
    }
}

/// Changes a JSON file.
pub fn edit(folder: &Path, name: &str, change: impl FnOnce(&mut Value)) {
    let path = folder.join(name);
    let mut value = serde_json::from_slice(&fs::read(&path).expect("a file")).expect("JSON");
    change(&mut value);
    fs::write(path, value.to_string()).expect("a file");
}

/// A tensor as a safetensors file has it: name, type, shape, bytes.
pub type Raw = (String, String, Vec<usize>, Vec<u8>);

/// All tensors of a safetensors file.
pub fn read_weights(path: &Path) -> Vec<Raw> {
    let bytes = fs::read(path).expect("a file");
    let file = safetensors::SafeTensors::deserialize(&bytes).expect("a safetensors file");
    let raw = |(name, view): (&str, safetensors::tensor::TensorView<'_>)| {
        (name.to_owned(), format!("{:?}", view.dtype()), view.shape().to_vec(), view.data().to_vec())
    };
    let mut tensors: Vec<_> = file.iter().map(raw).collect();
    tensors.sort();
    tensors
}

/// Writes a safetensors file, whatever it says.
pub fn write_weights(path: &Path, tensors: &[Raw]) {
    let mut header = serde_json::Map::new();
    let mut data = Vec::new();
    for (name, dtype, shape, bytes) in tensors {
        let start = data.len();
        data.extend_from_slice(bytes);
        let info = serde_json::json!({"dtype": dtype, "shape": shape, "data_offsets": [start, data.len()]});
        header.insert(name.clone(), info);
    }
    let header = Value::Object(header).to_string();
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend_from_slice(header.as_bytes());
    file.extend_from_slice(&data);
    fs::write(path, file).expect("a file");
}

/// Changes the tensors of `model.safetensors`.
pub fn edit_weights(folder: &Path, change: impl FnOnce(&mut Vec<Raw>)) {
    let path = folder.join("model.safetensors");
    let mut tensors = read_weights(&path);
    change(&mut tensors);
    write_weights(&path, &tensors);
}

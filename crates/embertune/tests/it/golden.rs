//! Where the golden values, the real models and the data sets of the tests are, and how to read them.
//!
//! Every function gives `None` where a file is missing, and says `SKIPPED` on stderr: the test then passes without having
//! checked anything. Golden values come from PyTorch; the folder's own README says how they were made.
#![allow(dead_code)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// A tensor of a golden file: its shape and its values, integers as floats.
pub type Tensor = (Vec<usize>, Vec<f32>);

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The first of `folders` that holds `name`.
fn find(name: &str, folders: &[Option<PathBuf>]) -> Option<PathBuf> {
    let found = folders.iter().flatten().map(|folder| folder.join(name)).find(|path| path.exists());
    if found.is_none() {
        let tried: Vec<_> = folders.iter().flatten().map(|folder| folder.display().to_string()).collect();
        eprintln!("SKIPPED: `{name}` is in none of {}", tried.join(", "));
    }
    found
}

fn env_folder(variable: &str) -> Option<PathBuf> {
    std::env::var_os(variable).map(PathBuf::from)
}

/// A file or folder with golden values: in `$EMBERTUNE_GOLDEN`, `tests/golden` or `../shared/golden` of the repository.
pub fn golden(name: &str) -> Option<PathBuf> {
    let repository = repository();
    find(
        name,
        &[
            env_folder("EMBERTUNE_GOLDEN"),
            Some(repository.join("tests/golden")),
            Some(repository.join("../shared/golden")),
        ],
    )
}

/// A published model: in `$EMBERTUNE_MODELS` or `.cache/models` of the repository.
pub fn real_model(name: &str) -> Option<PathBuf> {
    find(name, &[env_folder("EMBERTUNE_MODELS"), Some(repository().join(".cache/models"))])
}

/// A data set: in `$EMBERTUNE_DATA` or `../shared/data` of the repository.
pub fn data(name: &str) -> Option<PathBuf> {
    find(name, &[env_folder("EMBERTUNE_DATA"), Some(repository().join("../shared/data"))])
}

/// A golden JSON file.
pub fn json(name: &str) -> Option<serde_json::Value> {
    let path = golden(name)?;
    let text = std::fs::read_to_string(&path).expect("a readable golden file");
    Some(serde_json::from_str(&text).expect("golden JSON"))
}

/// The tensors of a golden safetensors file, or of a checkpoint, by name. F32, I32 and BOOL only; other types are left out.
pub fn tensors(name: &str) -> Option<BTreeMap<String, Tensor>> {
    Some(read_tensors(&golden(name)?))
}

/// The F32, I32 and BOOL tensors of a safetensors file, by name.
pub fn read_tensors(path: &Path) -> BTreeMap<String, Tensor> {
    let bytes = std::fs::read(path).expect("a readable file");
    let file = safetensors::SafeTensors::deserialize(&bytes).expect("a safetensors file");
    let words = |data: &[u8]| -> Vec<[u8; 4]> {
        data.chunks_exact(4).map(|word| word.try_into().expect("four bytes")).collect()
    };
    file.iter()
        .filter_map(|(name, view)| {
            let values = match view.dtype() {
                safetensors::Dtype::F32 => words(view.data()).into_iter().map(f32::from_le_bytes).collect(),
                safetensors::Dtype::I32 => {
                    words(view.data()).into_iter().map(|word| i32::from_le_bytes(word) as f32).collect()
                }
                safetensors::Dtype::BOOL => view.data().iter().copied().map(f32::from).collect(),
                _ => return None,
            };
            Some((name.to_owned(), (view.shape().to_vec(), values)))
        })
        .collect()
}

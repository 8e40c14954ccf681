//! Checksums of the files of a checkpoint, so that a flipped bit or a file that somebody changed is found before a run goes on from it.
//!
//! safetensors has none: a weight with a flipped bit is a weight. The list is in the form of `xxh128sum`, which checks it as well
//! (`xxh128sum -c checksums.xxh128` in the folder).

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::Path;

use xxhash_rust::xxh3::Xxh3Default;

use crate::error::{Error, Result};

/// The list, in the folder.
const LIST: &str = "checksums.xxh128";

/// Writes the list of all files in `folder`, and makes sure that it has reached the disk. Comes last: what is written later is not in it.
///
/// # Errors
/// What the file system says.
pub fn write(folder: &Path) -> Result<()> {
    let path = folder.join(LIST);
    let mut text = String::new();
    for name in files(folder, "")? {
        text += &format!("{}  {name}\n", digest(&folder.join(&name))?);
    }
    File::create_new(&path)
        .and_then(|mut file| {
            file.write_all(text.as_bytes())?;
            file.sync_all()
        })
        .map_err(Error::io(&path, "write"))
}

/// Checks the files that the list of `folder` names.
///
/// # Errors
/// A file that is not as it was written, or not there; no list.
pub fn check(folder: &Path) -> Result<()> {
    let refuse = |problem: String| Error::Model {
        path: folder.into(),
        problem,
        hint: Some("resume from another checkpoint, by its path, or begin anew".into()),
    };
    let list = fs::read_to_string(folder.join(LIST));
    let list = list.map_err(|error| refuse(format!("`{LIST}` cannot be read: {error}")))?;
    for line in list.lines() {
        let (hash, name) = line.split_once("  ").ok_or_else(|| refuse(format!("`{LIST}` is damaged")))?;
        let found = digest(&folder.join(name)).map_err(|error| refuse(format!("`{name}` is damaged: {error}")))?;
        if found != hash {
            return Err(refuse(format!("`{name}` is damaged: its bytes are not those that were written")));
        }
    }
    Ok(())
}

/// The files in a folder and in those within, by their paths from it, in order.
fn files(root: &Path, below: &str) -> Result<Vec<String>> {
    let folder = root.join(below);
    let mut found = Vec::new();
    for entry in fs::read_dir(&folder).map_err(Error::io(&folder, "read"))? {
        let entry = entry.map_err(Error::io(&folder, "read"))?;
        let name = format!("{below}{}", entry.file_name().to_string_lossy());
        match entry.path().is_dir() {
            true => found.extend(files(root, &format!("{name}/"))?),
            false => found.push(name),
        }
    }
    found.sort();
    Ok(found)
}

/// XXH3-128 of a file, hexadecimal.
fn digest(path: &Path) -> Result<String> {
    let mut hash = Xxh3Default::new();
    let mut block = vec![0; 1 << 20];
    let mut read = || -> io::Result<()> {
        let mut file = File::open(path)?;
        loop {
            match file.read(&mut block)? {
                0 => return Ok(()),
                n => hash.update(&block[..n]),
            }
        }
    };
    read().map_err(Error::io(path, "read"))?;
    Ok(format!("{:032x}", hash.digest128()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flipped_bit_a_missing_file_and_a_missing_list_are_found() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path();
        fs::create_dir(folder.join("adapter")).unwrap();
        let (top, inner) = (folder.join("model.bin"), folder.join("adapter/a b.bin"));
        fs::write(&top, "weights").unwrap();
        fs::write(&inner, "more").unwrap();
        assert!(check(folder).unwrap_err().to_string().contains("`checksums.xxh128` cannot be read"));
        write(folder).unwrap();
        check(folder).unwrap();

        let list = fs::read_to_string(folder.join(LIST)).unwrap();
        assert!(list.lines().next().unwrap().ends_with("  adapter/a b.bin"), "{list}");
        for (path, name) in [(&top, "`model.bin` is damaged"), (&inner, "`adapter/a b.bin` is damaged")] {
            let whole = fs::read(path).unwrap();
            let mut flipped = whole.clone();
            flipped[2] ^= 4;
            fs::write(path, flipped).unwrap();
            assert!(check(folder).unwrap_err().to_string().contains(name));
            fs::remove_file(path).unwrap();
            assert!(check(folder).unwrap_err().to_string().contains(name));
            fs::write(path, whole).unwrap();
        }
        check(folder).unwrap();
    }
}

//! Writing a file so that its path holds either the old content or the whole new one, never a part.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// What the names of temporary files and folders begin with.
const TEMPORARY: &str = ".embertune-";

/// Writes the file at `path` through `fill`: into a temporary file in the same folder, which is flushed to the disk and
/// renamed to `path`. The folder must exist. An existing file is replaced; where `path` is a link, the file that it points to.
///
/// A path that is no regular file (`/dev/stdout`, a named pipe) can't be renamed to: it is written directly.
///
/// # Errors
/// [`Error::Io`] with `path`; nothing is left behind then.
pub fn write_file(path: &Path, fill: impl FnOnce(&mut (dyn Write + Send)) -> io::Result<()>) -> Result<()> {
    write(path, fill).map_err(Error::io(path, "write"))
}

/// Fails now where [`write_file`] would fail after hours of work, because the folder does not exist or can't be written to.
///
/// # Errors
/// [`Error::Io`] with `path`.
pub fn check_writable(path: &Path) -> Result<()> {
    let check = || match destination(path)? {
        Destination::Device(_) => Ok(()),
        Destination::File(_, folder) => builder().tempfile_in(folder).map(drop),
    };
    check().map_err(Error::io(path, "write"))
}

/// Fails where a file of `outputs` is one of `inputs`, which it would take the place of, or another one of `outputs`.
///
/// # Errors
/// The first such file.
pub fn check_apart<'a>(
    outputs: impl IntoIterator<Item = &'a PathBuf>,
    inputs: impl IntoIterator<Item = &'a PathBuf>,
) -> Result<()> {
    let place = |path: &Path| match destination(path) {
        Ok(Destination::File(file, folder)) => {
            let folder = fs::canonicalize(&folder).unwrap_or(folder);
            Some(folder.join(file.file_name().unwrap_or_default()))
        }
        _ => None,
    };
    let refuse = |path: &Path, problem: &str| {
        let hint = Some("name another file".into());
        Err(Error::Data { path: path.to_path_buf(), problem: problem.into(), hint })
    };
    let mut taken: Vec<_> = inputs.into_iter().filter_map(|path| place(path).map(|place| (place, true))).collect();
    for path in outputs {
        let Some(place) = place(path) else { continue };
        match taken.iter().find(|(known, _)| *known == place) {
            Some((_, true)) => return refuse(path, "the output would take the place of what is read"),
            Some((_, false)) => return refuse(path, "two outputs have this name"),
            None => taken.push((place, false)),
        }
    }
    Ok(())
}

/// Makes the folder `path` through `fill`, which gets another folder to write into: that one is renamed to `path` at the end. `path` must
/// not exist yet, or be empty; its parent must exist.
///
/// # Errors
/// A folder that is not empty, or can't be made, and errors of `fill`; nothing is left behind then.
pub fn write_folder<T>(path: &Path, fill: impl FnOnce(&Path) -> Result<T>) -> Result<T> {
    let is_empty = |folder: &Path| fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_none());
    if path.exists() && !is_empty(path) {
        return Err(Error::Data {
            path: path.to_path_buf(),
            problem: "the folder is not empty, or it is a file".into(),
            hint: Some("nothing is overwritten: name another folder, or remove it".into()),
        });
    }
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let temporary = tempfile::Builder::new().prefix(TEMPORARY).tempdir_in(parent).map_err(Error::io(path, "create"))?;
    let folder = temporary.path().join("new");
    fs::create_dir(&folder).map_err(Error::io(path, "create"))?;
    let made = fill(&folder)?;
    sync_folder(&folder).map_err(Error::io(path, "write"))?;
    // Replaces an empty folder; one that was filled meanwhile is an error.
    fs::rename(&folder, path).map_err(Error::io(path, "write"))?;
    sync_folder(parent).map_err(Error::io(path, "write"))?;
    Ok(made)
}

/// Removes what writes that were killed have left in a folder that nobody else writes to.
///
/// # Errors
/// What can't be read or removed.
pub fn remove_leftovers(folder: &Path) -> Result<()> {
    for entry in fs::read_dir(folder).map_err(Error::io(folder, "read"))?.flatten() {
        if entry.file_name().to_string_lossy().starts_with(TEMPORARY) {
            let path = entry.path();
            let removed = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
            removed.map_err(Error::io(&path, "remove"))?;
        }
    }
    Ok(())
}

enum Destination {
    /// What can't be renamed to, but be written.
    Device(PathBuf),
    /// A file, maybe not there yet, and its folder.
    File(PathBuf, PathBuf),
}

fn destination(path: &Path) -> io::Result<Destination> {
    let target = fs::canonicalize(path).unwrap_or_else(|_| path.to_path_buf());
    match fs::metadata(&target) {
        Ok(known) if known.is_dir() => Err(io::Error::new(io::ErrorKind::IsADirectory, "it is a folder")),
        Ok(known) if !known.is_file() => Ok(Destination::Device(target)),
        _ => {
            let folder = target.parent().filter(|folder| !folder.as_os_str().is_empty());
            let folder = folder.unwrap_or(Path::new(".")).to_path_buf();
            if !folder.is_dir() {
                let problem = format!("there is no folder `{}`", folder.display());
                return Err(io::Error::new(io::ErrorKind::NotFound, problem));
            }
            Ok(Destination::File(target, folder))
        }
    }
}

fn write(path: &Path, fill: impl FnOnce(&mut (dyn Write + Send)) -> io::Result<()>) -> io::Result<()> {
    let (target, folder) = match destination(path)? {
        Destination::Device(target) => {
            let mut out = BufWriter::new(File::options().write(true).open(target)?);
            fill(&mut out)?;
            return out.flush();
        }
        Destination::File(target, folder) => (target, folder),
    };
    let mut temporary = builder().tempfile_in(&folder)?;
    let mut out = BufWriter::new(temporary.as_file_mut());
    fill(&mut out)?;
    out.flush()?;
    drop(out);
    temporary.as_file().sync_all()?;
    temporary.persist(&target)?;
    sync_folder(&folder)
}

/// A temporary file that, once renamed, has the permissions of any other new file (`tempfile` makes private ones).
fn builder() -> tempfile::Builder<'static, 'static> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(TEMPORARY);
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        builder.permissions(fs::Permissions::from_mode(0o666));
    }
    builder
}

/// Makes a rename in `folder` survive a power cut.
#[cfg(unix)]
pub fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// Makes a rename in `folder` survive a power cut. Windows can't open a folder as a file, and needs no such call.
#[cfg(not(unix))]
pub fn sync_folder(_folder: &Path) -> io::Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn new_content_replaces_the_old_and_nothing_else_is_left() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.jsonl");
        for content in ["first", "second, longer"] {
            write_file(&path, |out| out.write_all(content.as_bytes())).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), content);
        }
        assert_eq!(names(folder.path()), ["a.jsonl"]);
    }

    #[test]
    fn a_failure_leaves_the_old_file_and_no_temporary_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.jsonl");
        fs::write(&path, "old").unwrap();
        let full = write_file(&path, |out| {
            out.write_all(b"half")?;
            Err(io::Error::from(io::ErrorKind::StorageFull))
        });
        let error = full.unwrap_err();
        assert!(error.to_string().contains("a.jsonl: cannot write"), "{error}");
        assert!(error.hint().unwrap().contains("free some space"));
        assert_eq!(fs::read_to_string(&path).unwrap(), "old");
        assert_eq!(names(folder.path()), ["a.jsonl"]);
    }

    #[cfg(unix)]
    #[test]
    fn a_new_file_is_as_readable_as_any_other() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let [ours, plain] = ["ours", "plain"].map(|name| folder.path().join(name));
        write_file(&ours, |out| out.write_all(b"x")).unwrap();
        fs::write(&plain, "x").unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode();
        assert_eq!(mode(&ours), mode(&plain));
    }

    #[cfg(unix)]
    #[test]
    fn a_link_stays_a_link_and_a_device_is_written_directly() {
        let folder = tempfile::tempdir().unwrap();
        let [real, link] = ["real", "link"].map(|name| folder.path().join(name));
        fs::write(&real, "old").unwrap();
        std::os::unix::fs::symlink(&real, &link).unwrap();
        write_file(&link, |out| out.write_all(b"new")).unwrap();
        assert_eq!(fs::read_to_string(&real).unwrap(), "new");
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        write_file(Path::new("/dev/null"), |out| out.write_all(b"gone")).unwrap();
    }

    #[test]
    fn an_output_is_neither_an_input_nor_another_output() {
        let folder = tempfile::tempdir().unwrap();
        let [pool, new] = ["pool.jsonl", "new.jsonl"].map(|name| folder.path().join(name));
        fs::write(&pool, "read").unwrap();
        let mut same = vec![pool.clone()];
        same.push(folder.path().join("..").join(folder.path().file_name().unwrap()).join("pool.jsonl"));
        #[cfg(unix)]
        {
            same.push(folder.path().join("link.jsonl"));
            std::os::unix::fs::symlink(&pool, &same[2]).unwrap();
        }
        for output in &same {
            let error = check_apart([&new, output], [&pool, &folder.path().to_path_buf()]).unwrap_err().to_string();
            assert!(error.contains("take the place of what is read") && error.contains(&output.display().to_string()));
        }
        let error = check_apart([&new, &new], []).unwrap_err().to_string();
        assert!(error.contains("new.jsonl: two outputs have this name"), "{error}");
        let null = PathBuf::from("/dev/null");
        check_apart([&new, &null, &null], [&pool, &null, &pool]).unwrap();
    }

    #[test]
    fn a_folder_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        for error in [write_file(folder.path(), |_| Ok(())), check_writable(folder.path())].map(Result::unwrap_err) {
            assert!(error.to_string().contains("it is a folder"), "{error}");
        }
    }

    #[test]
    fn a_missing_folder_is_found_before_the_work_and_a_good_path_stays_untouched() {
        let folder = tempfile::tempdir().unwrap();
        let error = check_writable(&folder.path().join("no/a.jsonl")).unwrap_err();
        assert!(error.to_string().contains("a.jsonl: cannot write: there is no folder `"), "{error}");
        check_writable(&folder.path().join("a.jsonl")).unwrap();
        assert_eq!(names(folder.path()), [] as [&str; 0]);
    }
}

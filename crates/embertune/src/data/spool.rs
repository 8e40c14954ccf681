//! Bytes that are written once and read as often as needed: in memory while they are few, else in a temporary file.
//!
//! The file has no name and goes with the process, however that ends. It is in the folder that `TMPDIR` names, else in `/var/tmp`: `/tmp` is
//! memory on many systems. Read by plain file reads rather than through a memory map, as files of vectors are.

use std::env;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use crate::error::{Error, Result};

/// So many of the last bytes are in memory. Less makes more writes of files that would have fitted; there are three of them in a training.
const TAIL_BYTES: usize = 1 << 24;

/// Bytes in the order in which they were written.
#[derive(Debug, Default)]
pub struct Spool {
    file: Option<Mutex<File>>,
    n_in_file: u64,
    tail: Vec<u8>,
}

impl Spool {
    /// Adds `bytes` at the end.
    ///
    /// # Errors
    /// Where the temporary file can't be made or written.
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        if self.tail.len() + bytes.len() > TAIL_BYTES {
            self.empty_tail().map_err(Error::io(folder(), "write a temporary file"))?;
        }
        self.tail.extend_from_slice(bytes);
        Ok(())
    }

    fn empty_tail(&mut self) -> io::Result<()> {
        let file = match self.file.take() {
            Some(file) => file,
            None => Mutex::new(tempfile::tempfile_in(folder())?),
        };
        let file = self.file.insert(file).get_mut().unwrap_or_else(PoisonError::into_inner);
        file.seek(SeekFrom::Start(self.n_in_file))?;
        file.write_all(&self.tail)?;
        self.n_in_file += self.tail.len() as u64;
        self.tail.clear();
        Ok(())
    }

    /// Number of bytes.
    pub fn len(&self) -> u64 {
        self.n_in_file + self.tail.len() as u64
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Some of the bytes.
    ///
    /// # Errors
    /// Where the temporary file can't be read.
    ///
    /// # Panics
    /// Where the bytes are not there.
    pub fn read(&self, bytes: Range<u64>) -> Result<Vec<u8>> {
        assert!(bytes.start <= bytes.end && bytes.end <= self.len(), "bytes {bytes:?} of {}", self.len());
        let from_file = bytes.start.min(self.n_in_file)..bytes.end.min(self.n_in_file);
        let mut found = vec![0; (from_file.end - from_file.start) as usize];
        if let (Some(file), false) = (&self.file, found.is_empty()) {
            // A thread that panicked left nothing half-done: the place is set anew.
            let mut file = file.lock().unwrap_or_else(PoisonError::into_inner);
            let mut read = || file.seek(SeekFrom::Start(from_file.start)).and_then(|_| file.read_exact(&mut found));
            read().map_err(Error::io(folder(), "read a temporary file"))?;
        }
        let in_tail = |at: u64| at.saturating_sub(self.n_in_file) as usize;
        found.extend_from_slice(&self.tail[in_tail(bytes.start)..in_tail(bytes.end)]);
        Ok(found)
    }
}

/// Where the temporary file is.
fn folder() -> PathBuf {
    let on_disk = Path::new("/var/tmp");
    if cfg!(unix) && env::var_os("TMPDIR").is_none() && on_disk.is_dir() {
        return on_disk.to_path_buf();
    }
    env::temp_dir()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_read_as_they_were_written_from_memory_and_file() {
        let mut spool = Spool::default();
        let block: Vec<u8> = (0..TAIL_BYTES / 3).map(|i| (i * i % 251) as u8).collect();
        let mut all = Vec::new();
        for n in 0..8 {
            spool.write(&block[n..]).unwrap();
            all.extend_from_slice(&block[n..]);
            // Reading moves the place in the file.
            assert!(spool.read(1..9).unwrap() == all[1..9]);
        }
        assert!(spool.n_in_file > 0 && !spool.tail.is_empty() && spool.len() == all.len() as u64);
        let border = spool.n_in_file;
        for bytes in [0..10, border - 7..border, border..border + 9, border - 5..border + 6, 0..spool.len(), 3..3] {
            let expected = &all[bytes.start as usize..bytes.end as usize];
            assert!(spool.read(bytes.clone()).unwrap() == expected, "{bytes:?}");
        }
    }

    #[test]
    fn few_bytes_make_no_file() {
        let mut spool = Spool::default();
        spool.write(b"few").unwrap();
        assert!(spool.file.is_none() && spool.read(1..3).unwrap() == b"ew");
    }
}

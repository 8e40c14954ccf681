//! Where the entries of a zip archive lie in its file, for archives whose entries are not compressed: those of `torch.save`.
//!
//! The crate `zip` is not used: it insists on checksums, which PyTorch may leave wrong on request
//! (`torch.serialization.set_crc32_options`), and wants to read entries whole, where a tensor may be a part of one.
//! Source: PKWARE's APPNOTE.TXT, sections 4.3 and 4.5.3.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::Path;

use super::broken;
use crate::{Error, Result};

/// Size of the record at the end of an archive, and of the longest comment after it.
const END_BYTES: usize = 22;
const MAX_COMMENT_BYTES: usize = 0xFFFF;
/// Sizes of the other records, without the names and extra fields that follow them.
const LOCATOR_BYTES: usize = 20;
const END64_BYTES: usize = 56;
const ENTRY_BYTES: usize = 46;
const LOCAL_BYTES: usize = 30;
/// What a 32-bit field holds where the number is in the extra field of a large archive.
const ELSEWHERE: u64 = 0xFFFF_FFFF;

/// The bytes of each entry, by name. Every range lies within the file.
///
/// # Errors
/// If the file is not an archive, is cut off, or holds compressed or encrypted entries.
pub fn entries(path: &Path, file: &mut File) -> Result<BTreeMap<String, Range<u64>>> {
    let file_len = file.metadata().map_err(Error::io(path, "read"))?.len();
    let mut archive = Archive { path, file, len: file_len };
    let directory = archive.directory()?;
    let mut entries = BTreeMap::new();
    let mut rest = directory.as_slice();
    while rest.starts_with(b"PK\x01\x02") {
        let (name, entry, length) = parse_entry(rest).ok_or_else(|| archive.broken("its directory is broken"))?;
        rest = &rest[length..];
        if entry.method != 0 || entry.flags & 1 != 0 {
            return Err(
                archive.broken(&format!("its entry `{name}` is compressed or encrypted, which PyTorch never does"))
            );
        }
        let local = archive.read(entry.offset, LOCAL_BYTES)?;
        if !local.starts_with(b"PK\x03\x04") {
            return Err(archive.broken(&format!("its entry `{name}` is not where the directory says")));
        }
        let before = LOCAL_BYTES as u64 + number(&local, 26, 2).unwrap_or(0) + number(&local, 28, 2).unwrap_or(0);
        let start = entry.offset + before;
        let end = start.checked_add(entry.size).filter(|&end| end <= file_len);
        let end = end.ok_or_else(|| archive.broken(&format!("its entry `{name}` goes beyond the end of the file")))?;
        if entries.insert(name.clone(), start..end).is_some() {
            return Err(archive.broken(&format!("its entry `{name}` is there twice")));
        }
    }
    Ok(entries)
}

struct Archive<'a> {
    path: &'a Path,
    file: &'a mut File,
    len: u64,
}

impl Archive<'_> {
    /// The central directory, which lists the entries.
    fn directory(&mut self) -> Result<Vec<u8>> {
        let tail_len = self.len.min((END_BYTES + MAX_COMMENT_BYTES) as u64);
        let tail_start = self.len - tail_len;
        let tail = self.read(tail_start, tail_len as usize)?;
        let end = (0..=tail.len().saturating_sub(END_BYTES)).rev().find(|&at| tail[at..].starts_with(b"PK\x05\x06"));
        let end = end.ok_or_else(|| self.broken("its directory is missing"))?;
        let (mut size, mut offset) = (number(&tail, end + 12, 4), number(&tail, end + 16, 4));
        let locator = end.checked_sub(LOCATOR_BYTES).map(|at| &tail[at..end]);
        if let Some(locator) = locator.filter(|locator| locator.starts_with(b"PK\x06\x07")) {
            let at = number(locator, 8, 8).unwrap_or(u64::MAX);
            let large = self.read(at, END64_BYTES)?;
            (size, offset) = (number(&large, 40, 8), number(&large, 48, 8));
        }
        match (size, offset) {
            (Some(size), Some(offset)) if size <= self.len => self.read(offset, size as usize),
            _ => Err(self.broken("its directory is broken")),
        }
    }

    /// `len` is at most the length of the file.
    fn read(&mut self, start: u64, len: usize) -> Result<Vec<u8>> {
        if start.checked_add(len as u64).is_none_or(|end| end > self.len) {
            return Err(self.broken("its directory points beyond its end"));
        }
        let mut bytes = vec![0; len];
        self.file.seek(SeekFrom::Start(start)).map_err(Error::io(self.path, "read"))?;
        self.file.read_exact(&mut bytes).map_err(Error::io(self.path, "read"))?;
        Ok(bytes)
    }

    fn broken(&self, problem: &str) -> Error {
        broken(self.path, format!("cannot be used as an archive: {problem}"))
    }
}

struct Entry {
    flags: u64,
    method: u64,
    size: u64,
    offset: u64,
}

/// The first entry of a directory: its name, what it says, and how many bytes it takes. `None` where it is cut off.
fn parse_entry(bytes: &[u8]) -> Option<(String, Entry, usize)> {
    let field = |at, width| number(bytes, at, width);
    let name_end = ENTRY_BYTES + field(28, 2)? as usize;
    let extra_end = name_end + field(30, 2)? as usize;
    let length = extra_end + field(32, 2)? as usize;
    let name = String::from_utf8_lossy(bytes.get(ENTRY_BYTES..name_end)?).into_owned();
    bytes.get(..length)?;

    // In this order, and only those that had no room above: size, compressed size, offset.
    let mut large = extra_field(bytes.get(name_end..extra_end)?, 1).unwrap_or_default().chunks_exact(8);
    let mut resolve = |value: u64| match value {
        ELSEWHERE => number(large.next()?, 0, 8),
        _ => Some(value),
    };
    let (size, compressed, offset) = (resolve(field(24, 4)?)?, resolve(field(20, 4)?)?, resolve(field(42, 4)?)?);
    let method = if size == compressed { field(10, 2)? } else { u64::MAX };
    Some((name, Entry { flags: field(8, 2)?, method, size, offset }, length))
}

fn extra_field(mut extra: &[u8], id: u64) -> Option<&[u8]> {
    loop {
        let len = number(extra, 2, 2)? as usize;
        let content = extra.get(4..4 + len)?;
        if number(extra, 0, 2)? == id {
            return Some(content);
        }
        extra = &extra[4 + len..];
    }
}

/// A number of `width` bytes, the lowest first.
fn number(bytes: &[u8], at: usize, width: usize) -> Option<u64> {
    let bytes = bytes.get(at..at.checked_add(width)?)?;
    Some(bytes.iter().rev().fold(0, |value, &byte| value << 8 | u64::from(byte)))
}

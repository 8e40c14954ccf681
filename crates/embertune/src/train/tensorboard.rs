//! The numbers of the log as a TensorBoard event file (`--report_to tensorboard`).
//!
//! The file is a sequence of TFRecords: the length in 8 bytes, its checksum, the content, its checksum; a checksum is a masked CRC-32C.
//! The content is an `Event` in the wire format of protocol buffers, of which it takes four fields. Sources:
//! tensorflow/core/lib/io/record_writer.h, tensorflow/core/util/event.proto and summary.proto.

use std::fmt;
use std::fs::{self, File};
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::{Error, Result};

/// The event file; TensorBoard looks for `tfevents` in names.
const FILE: &str = "events.out.tfevents.0.embertune";
/// What the first event says of the format.
const VERSION: &[u8] = b"brain.Event:2";
/// Bytes of a record beside its content.
const FRAME: usize = 16;

/// Who is told what the log is told (`--report_to`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ReportTo {
    /// Nobody.
    #[default]
    None,
    /// TensorBoard, by an event file.
    Tensorboard,
}

impl ReportTo {
    const ALL: [(&str, ReportTo); 2] = [("none", ReportTo::None), ("tensorboard", ReportTo::Tensorboard)];
}

impl fmt::Display for ReportTo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(Self::ALL.iter().find(|(_, to)| to == self).map_or("", |(name, _)| name))
    }
}

impl FromStr for ReportTo {
    type Err = String;

    fn from_str(name: &str) -> std::result::Result<Self, String> {
        let found = Self::ALL.iter().find(|(known, _)| *known == name);
        found.map(|(_, to)| *to).ok_or_else(|| "expected none or tensorboard: nothing is sent to services".into())
    }
}

/// An event file that is being written.
pub struct EventFile {
    path: PathBuf,
    file: File,
}

impl EventFile {
    /// The file in `folder`, which is made; with the events until `last_step` of a run that goes on there, or new.
    ///
    /// # Errors
    /// What the file system says.
    pub fn open(folder: &Path, last_step: Option<usize>) -> Result<Self> {
        fs::create_dir_all(folder).map_err(Error::io(folder, "create"))?;
        let path = folder.join(FILE);
        let kept = match last_step {
            Some(step) if path.exists() => length_until(&fs::read(&path).map_err(Error::io(&path, "read"))?, step),
            _ => 0,
        };
        let open = || -> std::io::Result<File> {
            let mut file = File::options().create(true).truncate(false).write(true).open(&path)?;
            file.set_len(kept as u64)?;
            file.seek(SeekFrom::End(0))?;
            if kept == 0 {
                file.write_all(&record(&event(0, 3, VERSION)))?;
            }
            Ok(file)
        };
        Ok(EventFile { file: open().map_err(Error::io(&path, "create"))?, path })
    }

    /// Adds the numbers of a line of the log, an object with its `step`.
    ///
    /// # Errors
    /// A full disk, say.
    pub fn add(&mut self, line: &Value) -> Result<()> {
        let step = line["step"].as_u64().unwrap_or_default();
        let mut summary = Vec::new();
        for (name, value) in line.as_object().into_iter().flatten().filter(|(name, _)| *name != "step") {
            if let (tag, Some(value)) = (tag(name), value.as_f64()) {
                let mut scalar = Vec::new();
                put_bytes(&mut scalar, 1, tag.as_bytes());
                scalar.push(2 << 3 | 5);
                scalar.extend((value as f32).to_le_bytes());
                put_bytes(&mut summary, 1, &scalar);
            }
        }
        // In one piece: a process that is killed leaves a whole record, or none.
        self.file.write_all(&record(&event(step, 5, &summary))).map_err(Error::io(&self.path, "write"))
    }

    /// Makes sure that all of it has reached the disk.
    ///
    /// # Errors
    /// What the file system says.
    pub fn sync(&self) -> Result<()> {
        self.file.sync_all().map_err(Error::io(&self.path, "write"))
    }
}

/// The name that transformers gives a number of its log.
fn tag(name: &str) -> String {
    match name.strip_prefix("eval_") {
        Some(name) => format!("eval/{name}"),
        None if name == "lr" => "train/learning_rate".into(),
        None => format!("train/{name}"),
    }
}

/// `Event { wall_time = 1: double, step = 2: int64, <field>: bytes }`.
fn event(step: u64, field: u8, content: &[u8]) -> Vec<u8> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
    let mut event = vec![1 << 3 | 1];
    event.extend(now.to_le_bytes());
    event.push(2 << 3);
    put_number(&mut event, step);
    put_bytes(&mut event, field, content);
    event
}

fn put_number(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

fn put_bytes(out: &mut Vec<u8>, field: u8, bytes: &[u8]) {
    out.push(field << 3 | 2);
    put_number(out, bytes.len() as u64);
    out.extend(bytes);
}

fn record(content: &[u8]) -> Vec<u8> {
    let length = (content.len() as u64).to_le_bytes();
    let mut record = length.to_vec();
    record.extend(masked_crc(&length).to_le_bytes());
    record.extend(content);
    record.extend(masked_crc(content).to_le_bytes());
    record
}

/// The length of the records of our own making until the first of a step after `last_step`, or one that is not whole.
fn length_until(bytes: &[u8], last_step: usize) -> usize {
    let mut at = 0;
    while let Some(step) = step_of_record(&bytes[at..]).filter(|(step, _)| *step <= last_step as u64) {
        at += step.1;
    }
    at
}

/// The step of the first record, and the length of the record.
fn step_of_record(bytes: &[u8]) -> Option<(u64, usize)> {
    let length = u64::from_le_bytes(bytes.get(..8)?.try_into().ok()?);
    let whole = usize::try_from(length).ok()?.checked_add(FRAME)?;
    let content = bytes.get(..whole)?.get(12..whole - 4)?;
    // Behind the time and the key of the step.
    let number = content.get(10..)?;
    let n_bytes = 1 + number.iter().position(|byte| byte & 0x80 == 0)?;
    Some((number[..n_bytes].iter().rev().fold(0, |step, byte| step << 7 | u64::from(byte & 0x7f)), whole))
}

fn masked_crc(bytes: &[u8]) -> u32 {
    let crc = !bytes.iter().fold(!0, |crc, byte| CRC[((crc ^ u32::from(*byte)) & 0xff) as usize] ^ crc >> 8);
    crc.rotate_right(15).wrapping_add(0xa282_ead8)
}

/// CRC-32C (Castagnoli), one byte at a time.
const CRC: [u32; 256] = {
    let mut table = [0; 256];
    let mut i = 0;
    while i < 256 {
        let mut crc = i as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 };
            bit += 1;
        }
        table[i] = crc;
        i += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn checksums_are_those_of_the_standard() {
        // RFC 3720, B.4: 32 bytes of zeros; and the mask undone.
        let unmasked = |bytes: &[u8]| masked_crc(bytes).wrapping_sub(0xa282_ead8).rotate_left(15);
        assert_eq!(unmasked(&[0; 32]), 0x8a91_36aa);
        assert_eq!(unmasked(b"123456789"), 0xe306_9283);
    }

    #[test]
    fn an_event_is_a_time_a_step_and_its_content_in_a_frame() {
        let event = event(300, 5, &[0x0a, 1, b'x']);
        assert_eq!((event[0], &event[9..]), (0x09, &[0x10, 0xac, 0x02, 0x2a, 3, 0x0a, 1, b'x'][..]));
        let record = record(&event);
        assert_eq!(record.len(), event.len() + FRAME);
        assert_eq!(step_of_record(&record), Some((300, record.len())));
        assert_eq!(step_of_record(&record[..record.len() - 1]), None);
    }

    #[test]
    fn a_resumed_run_goes_on_behind_its_step() {
        let folder = tempfile::tempdir().unwrap();
        let length = || fs::metadata(folder.path().join(FILE)).unwrap().len();
        let line = |step: usize| json!({"step": step, "loss": 0.5, "lr": 1e-5, "eval_loss": null});
        let mut file = EventFile::open(folder.path(), None).unwrap();
        let mut lengths = vec![length()];
        for step in [100, 200, 300] {
            file.add(&line(step)).unwrap();
            lengths.push(length());
        }
        file.file.write_all(&[1, 2, 3]).unwrap();
        drop(file);
        for (step, expected) in [(300, lengths[3]), (250, lengths[2]), (99, lengths[0])] {
            drop(EventFile::open(folder.path(), Some(step)).unwrap());
            assert_eq!(length(), expected, "{step}");
        }
        let mut file = EventFile::open(folder.path(), Some(99)).unwrap();
        file.add(&line(100)).unwrap();
        assert_eq!(length(), lengths[1]);
        drop(EventFile::open(folder.path(), None).unwrap());
        assert_eq!(length(), lengths[0]);
    }

    #[test]
    fn numbers_have_the_names_that_transformers_gives_them() {
        for (name, expected) in [("loss", "train/loss"), ("lr", "train/learning_rate"), ("eval_mrr@10", "eval/mrr@10")]
        {
            assert_eq!(tag(name), expected);
        }
    }
}

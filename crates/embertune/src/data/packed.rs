//! The bytes of a file, unpacked where it is packed with gzip or zstd, whatever its name ends in; and packed where the name of one that is
//! written asks for it.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::Path;

use flate2::Compression;
use flate2::bufread::MultiGzDecoder;
use flate2::write::GzEncoder;
use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};
use ruzstd::encoding::{CompressionLevel, compress_to_vec};

use super::atomic::{check_writable, write_file};
use super::source::ending;
use crate::error::{Error, Result};

const GZIP: &[u8] = b"\x1F\x8B";
const ZSTD: &[u8] = b"\x28\xB5\x2F\xFD";
/// Read at once from the file, and unpacked at once.
const BLOCK_BYTES: usize = 1 << 16;
/// What a frame of Zstandard holds that is written: it is in memory twice until then.
const FRAME_BYTES: usize = 1 << 22;

/// What a file is packed with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packing {
    /// Not at all.
    None,
    /// gzip, maybe of several parts.
    Gzip,
    /// Zstandard, maybe of several frames.
    Zstd,
}

impl Packing {
    /// Its name in sentences; empty for none.
    pub fn name(self) -> &'static str {
        match self {
            Packing::None => "",
            Packing::Gzip => "gzip",
            Packing::Zstd => "zstd",
        }
    }
}

impl Packing {
    /// What the name of a file asks for.
    pub fn of_name(path: &Path) -> Packing {
        let ending = path.extension().unwrap_or_default().to_ascii_lowercase();
        match ending.to_str() {
            Some("gz") => Packing::Gzip,
            Some("zst") => Packing::Zstd,
            _ => Packing::None,
        }
    }

    /// Writes through `fill` into `out`, packed.
    ///
    /// # Errors
    /// Those of `fill`, and of `out` as `error` makes them.
    pub fn write<E>(
        self,
        out: &mut dyn Write,
        fill: impl FnOnce(&mut dyn Write) -> std::result::Result<(), E>,
        error: impl FnOnce(io::Error) -> E,
    ) -> std::result::Result<(), E> {
        match self {
            Packing::None => fill(out),
            Packing::Gzip => {
                let mut packed = GzEncoder::new(out, Compression::default());
                fill(&mut packed)?;
                packed.finish().map(drop).map_err(error)
            }
            Packing::Zstd => {
                let mut packed = NewFrames { out, frame: Vec::new() };
                fill(&mut packed)?;
                packed.end_frame().map_err(error)
            }
        }
    }
}

/// Writes a file of lines as [`write_file`] does, packed where its name ends in `.gz` or `.zst`.
///
/// # Errors
/// [`Error::Io`] with `path`; nothing is left behind then.
pub fn write_lines(path: &Path, fill: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<()> {
    write_file(path, |out| Packing::of_name(path).write(out, fill, |error| error))
}

/// Fails now where [`write_lines`] would fail after hours of work, or where its JSON lines would have the name of another form.
///
/// # Errors
/// Those of [`check_writable`]; a name that ends as those of tables and of Parquet files do.
pub fn check_lines(path: &Path) -> Result<()> {
    if matches!(ending(path).as_str(), "csv" | "tsv" | "parquet") {
        return Err(Error::Setting {
            problem: format!("`{}`: what is written is JSON lines", path.display()),
            hint: Some(
                "let its name end in .jsonl, with .gz, .zst or neither; `embertune convert` makes a table of it".into(),
            ),
        });
    }
    check_writable(path)
}

/// Packs what is written with Zstandard, a frame after the other.
struct NewFrames<'a> {
    out: &'a mut dyn Write,
    frame: Vec<u8>,
}

impl NewFrames<'_> {
    fn end_frame(&mut self) -> io::Result<()> {
        // The one level that the encoder has beside none.
        let packed = compress_to_vec(self.frame.as_slice(), CompressionLevel::Fastest);
        self.frame.clear();
        self.out.write_all(&packed)
    }
}

impl Write for NewFrames<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = bytes.len().min(FRAME_BYTES - self.frame.len());
        self.frame.extend_from_slice(&bytes[..n]);
        if self.frame.len() == FRAME_BYTES {
            self.end_frame()?;
        }
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Opens a file for reading what it says.
///
/// # Errors
/// Where the path does not exist, can't be read, or is a folder. Damaged data is an error of the reader.
pub fn open(path: &Path) -> Result<(Box<dyn BufRead>, Packing)> {
    if fs::metadata(path).map_err(Error::io(path, "read"))?.is_dir() {
        return Err(Error::Data {
            path: path.to_path_buf(),
            problem: "this is a folder, a file is needed".into(),
            hint: Some("name one file in the folder".into()),
        });
    }
    let file = File::open(path).map_err(Error::io(path, "read"))?;
    let mut file = BufReader::with_capacity(BLOCK_BYTES, file);
    let start = file.fill_buf().map_err(Error::io(path, "read"))?;
    if start.starts_with(GZIP) {
        let unpacked = Unpacked { reader: MultiGzDecoder::new(file), packing: Packing::Gzip };
        return Ok((Box::new(BufReader::with_capacity(BLOCK_BYTES, unpacked)), Packing::Gzip));
    }
    if start.starts_with(ZSTD) {
        let unpacked = Unpacked {
            reader: Frames { source: file, decoder: FrameDecoder::new(), is_within: false },
            packing: Packing::Zstd,
        };
        return Ok((Box::new(BufReader::with_capacity(BLOCK_BYTES, unpacked)), Packing::Zstd));
    }
    Ok((Box::new(file), Packing::None))
}

/// A decoder whose errors say what is wrong with the file.
struct Unpacked<R> {
    reader: R,
    packing: Packing,
}

impl<R: Read> Read for Unpacked<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.reader.read(buffer).map_err(|error| {
            let problem = format!("the {} data is damaged or cut off: {error}", self.packing.name());
            io::Error::new(io::ErrorKind::InvalidData, problem)
        })
    }
}

/// One Zstandard frame after the other: the decoder knows a single one.
struct Frames<R> {
    source: R,
    decoder: FrameDecoder,
    is_within: bool,
}

impl<R: BufRead> Frames<R> {
    /// Begins the next frame. Whether there is one.
    fn begin(&mut self) -> io::Result<bool> {
        while !self.source.fill_buf()?.is_empty() {
            match self.decoder.init(&mut self.source) {
                Ok(()) => {
                    self.is_within = true;
                    return Ok(true);
                }
                // What compressors tell each other.
                Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame { length, .. })) => {
                    io::copy(&mut (&mut self.source).take(length.into()), &mut io::sink())?;
                }
                Err(error) => return Err(io::Error::other(error)),
            }
        }
        Ok(false)
    }
}

impl<R: BufRead> Read for Frames<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            if !self.is_within && !self.begin()? {
                return Ok(0);
            }
            while self.decoder.can_collect() == 0 && !self.decoder.is_finished() {
                let one = BlockDecodingStrategy::UptoBlocks(1);
                self.decoder.decode_blocks(&mut self.source, one).map_err(io::Error::other)?;
            }
            let n = self.decoder.read(buffer)?;
            if n > 0 || buffer.is_empty() {
                return Ok(n);
            }
            let (said, found) = (self.decoder.get_checksum_from_data(), self.decoder.get_calculated_checksum());
            if said.is_some() && said != found {
                return Err(io::Error::other("the checksum is another one"));
            }
            self.is_within = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_packed_by_its_name_comes_back_of_several_frames() {
        let folder = tempfile::tempdir().unwrap();
        let text: Vec<u8> = (0..FRAME_BYTES * 2 + 5).flat_map(|i| [b'a' + (i % 7) as u8, (i >> 9) as u8]).collect();
        for (name, packing) in [("a.gz", Packing::Gzip), ("a.ZST", Packing::Zstd), ("a.txt", Packing::None)] {
            let path = folder.path().join(name);
            assert_eq!(Packing::of_name(&path), packing);
            let mut out = Vec::new();
            let fill = |out: &mut dyn Write| text.chunks(1000).try_for_each(|part| out.write_all(part));
            packing.write(&mut out, fill, |error| error).unwrap();
            assert_eq!(out.len() < text.len() / 20, packing != Packing::None);
            fs::write(&path, out).unwrap();
            let (mut reader, found) = open(&path).unwrap();
            let mut back = Vec::new();
            reader.read_to_end(&mut back).unwrap();
            assert!(back == text && found == packing, "{name}");
        }
    }
}

//! `embertune embed`: texts in, a file with one vector per text out.

use std::path::Path;

use embertune::comm::{Communicator, all_or_none, by_first};
use embertune::data::atomic::check_writable;
use embertune::data::{TextForm, read_texts_as};
use embertune::embed::files::{Format, ValueType, write_vectors};
use embertune::progress::Progress;
use embertune::{Error, Result};

use super::{load_named, start_threads};
use crate::args::EmbedArgs;
use crate::device::{Device, on_device};

/// Standard input as a path, which the readers of files take.
const STANDARD_INPUT: &str = "/dev/stdin";

/// Runs the command as one of `ranks`, of which the first writes.
pub fn run(args: &EmbedArgs, ranks: &dyn Communicator, progress: &dyn Progress) -> Result<()> {
    let (format, texts) = all_or_none(ranks, prepare(args, ranks))?;
    let cache = args.embedding.cache();
    let texts: Vec<_> = texts.iter().map(String::as_str).collect();
    let device = Device::open(&args.machine, args.machine.precision, ranks, progress)?;
    let vectors = on_device!(device, |ops| {
        let model = load_named(ops, &args.model.model_name_or_path, &args.model.changes, progress);
        let model = all_or_none(ranks, model)?;
        args.embedding.among(ranks, cache.as_ref()).embed(&model, &texts, args.role.into(), progress)?
    });
    by_first(ranks, || write_vectors(&args.output_file, format, args.value_type.into(), &vectors))?;
    progress.note(&format!("{}: {} vectors of {} values", args.output_file.display(), vectors.n_rows(), vectors.dim));
    Ok(())
}

/// The format of the output, and the texts.
fn prepare(args: &EmbedArgs, ranks: &dyn Communicator) -> Result<(Format, Vec<String>)> {
    start_threads(&args.machine)?;
    let format = Format::of(&args.output_file)?;
    ValueType::from(args.value_type).check(format)?;
    let is_standard = args.input_file == Path::new("-");
    if is_standard && ranks.size() > 1 {
        return Err(Error::Setting {
            problem: format!("`--input_file -` with {} ranks: only one of them has the standard input", ranks.size()),
            hint: Some("name a file that all machines have".into()),
        });
    }
    let input = if is_standard { Path::new(STANDARD_INPUT) } else { &args.input_file };
    if ranks.rank() == 0 {
        check_writable(&args.output_file)?;
    }
    let texts = read_texts_as(input, args.input_format.map_or_else(|| TextForm::of(input), TextForm::from))?;
    Ok((format, texts))
}

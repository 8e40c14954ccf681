//! `embertune embed`: texts in, a file with one vector per text out.

use std::path::Path;

use embertune::Result;
use embertune::data::atomic::check_writable;
use embertune::data::{TextForm, read_texts_as};
use embertune::embed::files::{Format, ValueType, write_vectors};
use embertune::progress::Progress;

use super::{load_named, start_threads};
use crate::args::EmbedArgs;
use crate::device::{Device, on_device};

/// Standard input as a path, which the readers of files take.
const STANDARD_INPUT: &str = "/dev/stdin";

/// Runs the command.
pub fn run(args: &EmbedArgs, progress: &dyn Progress) -> Result<()> {
    start_threads(&args.machine)?;
    let (format, values) = (Format::of(&args.output_file)?, ValueType::from(args.value_type));
    values.check(format)?;
    let input = if args.input_file == Path::new("-") { Path::new(STANDARD_INPUT) } else { &args.input_file };
    check_writable(&args.output_file)?;
    let texts = read_texts_as(input, args.input_format.map_or_else(|| TextForm::of(input), TextForm::from))?;
    let cache = args.embedding.cache();
    let texts: Vec<_> = texts.iter().map(String::as_str).collect();
    let vectors = on_device!(Device::open(&args.machine, args.machine.precision, progress)?, |ops| {
        let model = load_named(ops, &args.model.model_name_or_path, &args.model.changes, progress)?;
        args.embedding.with(cache.as_ref()).embed(&model, &texts, args.role.into(), progress)?
    });
    write_vectors(&args.output_file, format, values, &vectors)?;
    progress.note(&format!("{}: {} vectors of {} values", args.output_file.display(), vectors.n_rows(), vectors.dim));
    Ok(())
}

//! `embertune score`: rows in, the same rows with a cross-encoder's scores out.

use embertune::Result;
use embertune::comm::Alone;
use embertune::data::packed::check_lines;
use embertune::data::read_rows_by;
use embertune::mine::{output, score_rows};
use embertune::model::{CrossEncoder, ScoreActivation, resolve};
use embertune::progress::Progress;

use super::start_threads;
use crate::args::ScoreArgs;
use crate::device::{Device, on_device};

/// Runs the command.
pub fn run(args: &ScoreArgs, progress: &dyn Progress) -> Result<()> {
    start_threads(&args.machine)?;
    let settings = args.settings();
    settings.check()?;
    check_lines(&args.output_file)?;
    let columns = args.columns.clone().unwrap_or_default();
    let rows = read_rows_by(&args.input_file, &columns, progress)?;
    let device = Device::open(&args.machine, args.machine.precision, &Alone, progress)?;
    let folder = resolve(&args.model_name_or_path, progress)?;
    let scored = on_device!(device, |ops| {
        let teacher = CrossEncoder::load(ops, &folder, args.max_seq_length, args.activation_fn, progress)?;
        if args.activation_fn.is_none() && teacher.activation() == ScoreActivation::Sigmoid {
            progress.note(
                "scores go through a sigmoid, as the model's folder has it: losses of distillation mostly want them as they are, \
                 `--activation_fn identity`",
            );
        }
        score_rows(&teacher, rows, &settings, progress)?
    });
    output::write_scored(&args.output_file, &scored)?;
    let n_rows = scored.rows.len();
    if scored.n_negatives > 0 {
        progress.note(&format!(
            "{} of {} negatives score above their row's lowest positive; {} are dropped",
            scored.n_above, scored.n_negatives, scored.n_dropped
        ));
    }
    let n_without = scored.rows.iter().filter(|row| row.example.negatives.is_empty()).count();
    if n_without > 0 {
        progress.warn(&format!("{n_without} of {n_rows} rows have no negatives"));
    }
    progress.note(&format!("{}: {n_rows} rows with scores", args.output_file.display()));
    Ok(())
}

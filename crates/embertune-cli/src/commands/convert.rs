//! `embertune convert`: rows of one form in, of another out.

use embertune::data::convert::{Target, convert};
use embertune::progress::Progress;
use embertune::{Error, Result};

use crate::args::ConvertArgs;
use crate::args::convert::ShapeArg;

/// Runs the command.
pub fn run(args: &ConvertArgs, progress: &dyn Progress) -> Result<()> {
    let target = args.to.map_or_else(|| Target::of(&args.output), |to| Ok(Target::from(to)))?;
    let shape = args.shape.into();
    if target == Target::Beir && !matches!(args.shape, ShapeArg::Rows) {
        return Err(Error::Setting {
            problem: "`--to beir` with `--shape`: a BEIR folder has one shape".into(),
            hint: Some("leave `--shape` out".into()),
        });
    }
    let columns = args.columns.clone().unwrap_or_default();
    let converted = convert(&args.input, &columns, &args.output, target, shape, progress)?;
    let what = if target == Target::Beir { "judgments" } else { "rows" };
    progress.note(&format!("{}: {} {what} of {} rows", args.output.display(), converted.n_written, converted.n_read));
    Ok(())
}

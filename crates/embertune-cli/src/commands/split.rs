//! `embertune split`: rows in, train, dev and test out.

use embertune::Result;
use embertune::data::split_files::split_files;
use embertune::progress::Progress;

use crate::args::SplitArgs;
use crate::printer;

/// Runs the command.
pub fn run(args: &SplitArgs, progress: &dyn Progress) -> Result<()> {
    let columns = args.columns.clone().unwrap_or_default();
    let split = split_files(&args.data, &columns, &args.out, &args.settings(), progress)?;
    printer::split_table(&split)
}

//! `embertune mine`: rows in, the same rows with hard negatives out.

use embertune::Result;
use embertune::data::atomic::check_writable;
use embertune::data::{read_pool, read_rows};
use embertune::mine::{mine, write_rows};
use embertune::progress::Progress;

use super::{load, start_threads};
use crate::args::MineArgs;

/// Runs the command.
pub fn run(args: &MineArgs, progress: &dyn Progress) -> Result<()> {
    start_threads(&args.machine)?;
    if args.use_gpu_for_searching {
        progress.note("`--use_gpu_for_searching`: this build has no GPU support, the search runs on the CPU");
    }
    check_writable(&args.output_file)?;
    let rows = read_rows(&args.input_file, progress)?;
    let pool = args.candidate_pool.as_ref().map(|path| read_pool(path, progress)).transpose()?;
    let model = load(&args.model, &args.machine, progress)?;
    let mined = mine(&model, rows, pool, &args.settings(), progress)?;
    write_rows(&args.output_file, &mined.rows, progress)?;
    let n_negatives: usize = mined.rows.iter().map(|row| row.example.negatives.len()).sum();
    progress.note(&format!(
        "{}: {} rows with {n_negatives} negatives, from {} candidates",
        args.output_file.display(),
        mined.rows.len(),
        mined.n_candidates
    ));
    Ok(())
}

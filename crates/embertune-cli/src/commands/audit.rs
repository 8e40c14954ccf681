//! `embertune audit`: what is wrong with the data, before it is trained on.

use std::path::Path;
use std::process::ExitCode;

use embertune::Result;
use embertune::audit::{Audit, Input, Part, Source, audit, list_path, write_repaired};
use embertune::comm::Alone;
use embertune::data::atomic::{check_apart, check_writable, write_file};
use embertune::data::files::check_readable_again;
use embertune::data::packed::check_lines;
use embertune::data::{
    Columns, RowsOf, Scores, StoredExamples, read_pool_by, store_examples, store_rows, store_scored_examples,
};
use embertune::progress::{Progress, Silent};
use embertune_kernels::cpu::Cpu;

use super::{load_named, start_threads};
use crate::args::AuditArgs;
use crate::device::{Device, on_device};
use crate::diagnostics;
use crate::printer;

/// Runs the command. The exit code says whether something was found that is as severe as `--fail_on`.
pub fn run(args: &AuditArgs, progress: &dyn Progress) -> Result<ExitCode> {
    start_threads(&args.machine)?;
    check_outputs(args)?;
    let columns = args.columns.clone().unwrap_or_default();
    let examples = read(&args.data, &columns, progress)?;
    let test = args.test.as_deref().map(|path| read(path, &columns, progress)).transpose()?;
    let pool = args.candidate_pool.as_deref().map(|path| read_pool_by(path, &columns, progress)).transpose()?;
    let [name, test_name] =
        [Some(&args.data), args.test.as_ref()].map(|path| path.map(|path| path.display().to_string()));
    let name = name.unwrap_or_default();
    let source = test.as_ref().zip(test_name.as_deref()).map(|(examples, name)| Source { name, examples });
    let data = Source { name: &name, examples: &examples };
    let input = Input { data, test: source, pool: pool.as_deref() };
    let mut audit = match &args.model {
        Some(name) => on_device!(Device::open(&args.machine, args.machine.precision, &Alone, progress)?, |ops| {
            audit(&input, Some(&load_named(ops, name, &args.changes, progress)?), &args.settings(), progress)?
        }),
        None => audit::<Cpu>(&input, None, &args.settings(), progress)?,
    };
    if args.no_texts {
        audit.leave_out_texts();
    }
    if let Some(path) = &args.fix {
        fix(path, args, &audit, progress)?;
    }
    if let Some(path) = &args.output {
        write_file(path, |out| {
            serde_json::to_writer_pretty(&mut *out, &audit)?;
            out.write_all(b"\n")
        })?;
    }
    if let Some(path) = &args.html {
        let page = printer::audit_html(&audit);
        write_file(path, |out| out.write_all(page.as_bytes()))?;
    }
    if args.json { printer::audit_json(&audit) } else { printer::audit_page(&audit) }?;
    let severe = args.fail_on.severity();
    let is_found = severe.is_some_and(|severe| audit.findings.iter().any(|finding| finding.severity >= severe));
    Ok(diagnostics::exit_code(is_found))
}

fn check_outputs(args: &AuditArgs) -> Result<()> {
    for output in args.output.iter().chain(&args.html) {
        check_writable(output)?;
    }
    if let Some(fix) = &args.fix {
        check_lines(fix)?;
        check_readable_again(&args.data)?;
    }
    let list = args.fix.as_deref().map(list_path);
    let outputs = [&args.output, &args.html, &args.fix, &list];
    let read = [&args.test, &args.candidate_pool];
    check_apart(outputs.into_iter().flatten(), read.into_iter().flatten().chain([&args.data]))
}

/// Rows with their scores if they have some. What has scores of another form is read without, and pairs with the label 1 or 0 are rows
/// with right and wrong answers.
fn read(path: &Path, columns: &Columns, progress: &dyn Progress) -> Result<StoredExamples> {
    let scored = store_scored_examples(path, columns, progress).or_else(|error| {
        check_readable_again(path).map_err(|_| error)?;
        store_examples(path, columns, progress)
    })?;
    let may_be_label = |score: &Scores| [Scores::Pair(0.0), Scores::Pair(1.0)].contains(score);
    let other = scored.rows().find(|row| !row.as_ref().is_ok_and(|row| may_be_label(&row.scores)));
    if other.transpose()?.is_some() {
        return Ok(scored);
    }
    check_readable_again(path)?;
    let labeled = store_examples(path, columns, &Silent).ok().filter(|rows| rows.n_rows() < scored.n_rows());
    Ok(labeled.unwrap_or(scored))
}

fn fix(path: &Path, args: &AuditArgs, audit: &Audit, progress: &dyn Progress) -> Result<()> {
    // All fields are needed here alone; what there is to say about the file was said when it was read.
    let columns = args.columns.clone().unwrap_or_default();
    let rows = store_rows(&args.data, &columns, &Silent)?;
    write_repaired(path, &audit.data, &rows, &audit.repairs)?;
    let n_rows = audit.repairs.iter().filter(|repair| repair.part == Part::Row).count();
    progress.note(&format!(
        "{}: {} of {} rows; {n_rows} rows and {} passages of other rows were left out: {}",
        path.display(),
        rows.n_rows() - n_rows,
        rows.n_rows(),
        audit.repairs.len() - n_rows,
        list_path(path).display()
    ));
    Ok(())
}

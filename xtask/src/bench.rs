//! `cargo xtask bench`: Embertune against its peers on the same machine at the same time, and the record of it. What is compared and
//! how the numbers are made: bench/README.md.

use std::fs;
use std::path::Path;
use std::process::Command;

use options::{Kind, Options};
use record::Record;
use setup::Setup;

mod data;
mod encode;
mod kernels;
mod machine;
mod mine;
mod options;
mod process;
mod record;
mod search;
mod setup;
mod summary;
mod train;

/// Runs what `words`, those after `bench`, ask for.
pub fn run(words: &[String], root: &Path) -> Result<(), String> {
    let options = Options::parse(words, root)?;
    let setup = Setup::new(root, &options)?;
    if let Some(busy) = machine::busy() {
        eprintln!("bench: warning: {busy}");
    }
    let now = utc_now()?;
    let day = now.split('T').next().unwrap_or(&now);
    let name = options.machine.clone().unwrap_or_else(machine::name);
    // The numbers of a trial are worth nothing later.
    let folder = match options.quick {
        true => setup.cache.join("quick").join(now.replace(':', "")),
        false => root.join("bench/runs").join(format!("{day}-{name}")),
    };
    let mut record = Record::open(folder, now.clone(), machine::commit(root))?;
    let outcome = match options.kind {
        Kind::Train => train::bench(&setup, &options, &mut record, root),
        Kind::Encode => encode::bench(&setup, &options, &mut record),
        Kind::Search => search::bench(&setup, &options, &mut record, root),
        Kind::Mine => mine::bench(&setup, &options, &mut record),
        Kind::Kernels => kernels::bench(&options, &mut record, root),
    };
    // What was measured before something failed is kept, too.
    if !record.rows.is_empty() {
        write_page(&record, &format!("{day}: {name}"), &machine::facts(root, &setup.python))?;
        println!("{}", summary::tables(&record.rows));
        println!("{}", record.folder().display());
    }
    outcome
}

/// The page of a folder of runs, from all rows in it.
fn write_page(record: &Record, title: &str, facts: &[(String, String)]) -> Result<(), String> {
    let facts: String = facts.iter().map(|(what, value)| format!("| {what} | {value} |\n")).collect();
    let page = format!(
        "# {title}\n\nWritten by `cargo xtask bench` from [raw.csv](raw.csv), which has every run of the day; the tables show the last \
         run of\neach measurement, as medians with (smallest..largest). The ratio is that of each pair of runs, its median and ends: \
         above 1 the\nside named first is faster or needs less. How it is measured: [bench/README.md](../../README.md).\n\n\
         | machine | |\n|---|---|\n{facts}\n{}",
        summary::tables(&record.all_rows()?)
    );
    let path = record.folder().join("README.md");
    fs::write(&path, page).map_err(|error| format!("{}: {error}", path.display()))
}

/// `2026-11-24T04:30:00Z`.
fn utc_now() -> Result<String, String> {
    let output = Command::new("date").args(["-u", "+%FT%TZ"]).output().map_err(|error| format!("date: {error}"))?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_string())
}

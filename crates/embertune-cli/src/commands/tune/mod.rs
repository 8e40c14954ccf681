//! `embertune tune`: all of the work in stages, each of which is a command that can be run alone.
//!
//! A stage is the command line that is printed: it is parsed and carried out in this process as if it had been typed. What was done, by
//! which command and from which files, is in `tune.json`; a stage with nothing new about it is not done again.

mod plan;
mod state;

use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::process::ExitCode;

use clap::FromArgMatches;
use embertune::comm::Alone;
use embertune::data::atomic::{remove_leftovers, write_file};
use embertune::eval::Finding;
use embertune::progress::Progress;
use embertune::report::Run;
use embertune::report::command::quoted;
use embertune::report::verdict::{VERDICT, VerdictRecord};
use embertune::{Error, Result};

use super::start_threads;
use crate::args::{Cli, Command, TuneArgs};
use crate::diagnostics;
use crate::printer;
use crate::progress::Display;
use plan::{Facts, Plan, Stage};
use state::State;

const GOES_ON: &str = "the same `embertune tune` command goes on from here";

/// Runs the command. The exit code says whether the model is better.
pub fn run(args: &TuneArgs, progress: &Display) -> Result<ExitCode> {
    // Before anything computes: a stage like `split`, which has no flag for it, would start as many as there are cores.
    start_threads(&args.machine)?;
    let facts = Facts::read(args, progress)?;
    let plan = Plan::of(args, &facts);
    printer::print(&outline(&facts, &plan))?;
    if args.dry_run {
        return Ok(ExitCode::SUCCESS);
    }
    let is_ours = State::path(&args.out).is_file();
    if !is_ours && fs::read_dir(&args.out).is_ok_and(|mut entries| entries.next().is_some()) {
        return Err(Error::Setting {
            problem: format!("`--out {}` is not empty, and not a folder that `tune` has begun", args.out.display()),
            hint: Some("name a new folder".into()),
        });
    }
    fs::create_dir_all(&args.out).map_err(Error::io(&args.out, "create"))?;
    let mut state = State::read(&args.out)?;
    if is_ours {
        remove_leftovers(&args.out)?;
    }
    if let Some(pool) = &plan.pool_to_make {
        // Written once: a second time would be the same.
        if !pool.is_file() {
            write_pool(pool, &facts)?;
        }
    }
    for (i, stage) in plan.stages.iter().enumerate() {
        let heading = format!("[{}/{}] {}", i + 1, plan.stages.len(), stage.name);
        if state.is_done(stage)? {
            // Nobody may have lived to do it.
            stage.clean_up()?;
            progress.note(&format!("{heading}: done before"));
            continue;
        }
        state.begin(stage, &args.out)?;
        let command = state.command(stage);
        progress.note(&format!("{heading}: {}\n      embertune {}", stage.why, shown(&command)));
        carry_out(&command, progress).inspect_err(|error| {
            if error.is_interruption() {
                progress.note(GOES_ON);
            }
        })?;
        stage.clean_up()?;
        state.finish(stage, &args.out)?;
        // A training is asked to stop once; the request may have come when there was no step left.
        if progress.signals().is_stop_requested() {
            progress.note(GOES_ON);
            return Ok(diagnostics::interrupted());
        }
    }
    conclude(&args.out, progress)
}

/// The verdict once more as the last word, and the exit code.
fn conclude(out: &Path, progress: &Display) -> Result<ExitCode> {
    let record = VerdictRecord::read(&out.join(VERDICT))?;
    progress.note(&format!(
        "model: {}, report: {}",
        out.join(plan::MODEL).display(),
        out.join("report.html").display()
    ));
    let kept = Run::read(out)?.kept_base();
    printer::print(&format!("\n{}{}\n", record.verdict, kept.map_or(String::new(), |kept| format!(": {kept}"))))?;
    if kept.is_some() {
        progress.note(&format!(
            "what may help: what {} found, a smaller `--learning_rate`, more rows",
            out.join("audit.html").display()
        ));
    }
    let forgets = record.comparison.sets.iter().skip(1).any(|probe| probe.main().finding == Finding::Worse);
    Ok(diagnostics::exit_code(record.finding != Finding::Better || forgets))
}

/// What is planned and why, with all commands.
fn outline(facts: &Facts, plan: &Plan) -> String {
    let mut text = facts.lines().join("\n") + "\n\n";
    for (i, Stage { name, why, command, .. }) in plan.stages.iter().enumerate() {
        text += &format!("{}. {name}: {why}\n   embertune {}\n", i + 1, shown(command));
    }
    text + "\n"
}

fn shown(command: &[String]) -> String {
    command.iter().map(|word| quoted(word)).collect::<Vec<_>>().join(" ")
}

/// Does what the command line says, as if it had been typed.
fn carry_out(command: &[String], progress: &Display) -> Result<()> {
    let argv = std::iter::once("embertune").chain(command.iter().map(String::as_str)).map(OsString::from);
    let matches = Cli::definition().try_get_matches_from(argv);
    let cli = matches.and_then(|matches| Cli::from_arg_matches(&matches)).map_err(|error| Error::Setting {
        problem: error.to_string().trim().trim_start_matches("error: ").to_string(),
        hint: Some("the flags of `tune` went into this command as they are".into()),
    })?;
    match cli.command {
        Command::Convert(args) => super::convert::run(&args, progress),
        Command::Audit(args) => super::audit::run(&args, progress).map(drop),
        Command::Split(args) => super::split::run(&args, progress),
        Command::Evaluate(args) => super::evaluate::run(&args, &Alone, progress),
        Command::Mine(args) => super::mine::run(&args, &Alone, progress),
        Command::Train(args) => super::train::run(&args, &Alone, progress),
        Command::Compare(args) => super::compare::run(&args, progress).map(drop),
        Command::Report(args) => super::report::run(&args, progress),
        Command::Score(_) | Command::Embed(_) | Command::Tune(_) | Command::GenDocs { .. } => {
            unreachable!("no stage is one of these")
        }
    }
}

/// The distinct passages of all rows, where the user names no pool.
fn write_pool(path: &Path, facts: &Facts) -> Result<()> {
    write_file(path, |out| {
        for text in facts.pool.texts() {
            serde_json::to_writer(&mut *out, &serde_json::json!({"text": text}))?;
            out.write_all(b"\n")?;
        }
        Ok(())
    })
}

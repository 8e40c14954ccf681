//! The command `embertune`: the flags, what is shown, and the exit code. Everything else is the library's.
//!
//! Exit codes: 0 done, 1 a requirement of `compare` is not met or `audit` found something severe, 2 an error, with `error:` and mostly
//! `hint:` on standard error, 130 interrupted.
#![forbid(unsafe_code)]

mod args;
mod commands;
mod diagnostics;
mod interrupt;
mod printer;
mod progress;

use std::process::ExitCode;

use clap::FromArgMatches;

use args::{Cli, refused, spelling};

fn main() -> ExitCode {
    let argv: Vec<_> = std::env::args_os().map(spelling::underscored).collect();
    if let Err(error) = refused::check(&argv) {
        return diagnostics::report(&error);
    }
    // Clap itself shows help and usage errors, and exits with 0 or 2.
    let cli = Cli::from_arg_matches(&Cli::definition().get_matches_from(argv)).unwrap_or_else(|error| error.exit());
    match commands::run(cli) {
        Ok(code) => code,
        Err(error) => diagnostics::report(&error),
    }
}

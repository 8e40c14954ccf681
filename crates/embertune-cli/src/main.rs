//! The command `embertune`: the flags, what is shown, and the exit code. Everything else is the library's.
//!
//! Exit codes: 0 done, 1 a requirement of `compare` is not met or `audit` found something severe, 2 an error, with `error:` and mostly
//! `hint:` on standard error, 130 interrupted.
#![forbid(unsafe_code)]

mod args;
mod commands;
mod device;
mod diagnostics;
mod interrupt;
mod printer;
mod progress;

use std::process::ExitCode;

use clap::FromArgMatches;

use args::{Cli, config, refused, spelling};

fn main() -> ExitCode {
    let argv: Vec<_> = std::env::args_os().map(spelling::underscored).collect();
    let definition = Cli::definition();
    let expanded = match config::expand(argv, &definition) {
        Ok(expanded) => expanded,
        Err(error) => {
            commands::let_rank_0_speak();
            return diagnostics::report(&error);
        }
    };
    let say_origin = |message: &str| {
        if let Some(origin) = expanded.origin(message) {
            eprintln!("note: {origin}");
        }
    };
    let done = refused::check(expanded.argv.clone()).and_then(|argv| {
        // Clap itself shows help and usage errors, and exits with 0 or 2.
        let parsed = definition.try_get_matches_from(argv).and_then(|matches| Cli::from_arg_matches(&matches));
        let cli = parsed.unwrap_or_else(|error| {
            commands::let_rank_0_speak();
            say_origin(&error.to_string());
            error.exit()
        });
        device::watched(|| commands::run(cli))
    });
    done.unwrap_or_else(|error| {
        commands::let_rank_0_speak();
        say_origin(&error.to_string());
        diagnostics::report(&error)
    })
}

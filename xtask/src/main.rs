//! Developer tasks: `cargo xtask check` is the gate for every change.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

mod bench;
mod tidy;

const USAGE: &str = "\
usage: cargo xtask <task>
  check       format, clippy, tidy, all tests; the cheapest first
  tidy        the rules of the source tree that no other tool knows
  gen-docs    write docs/cli.md and docs/guide/arguments.md from the command line's own definitions (a test checks them)
  bench       compare with the peers on this machine; `cargo xtask bench` alone says how";

fn main() -> ExitCode {
    let words: Vec<_> = std::env::args().skip(1).collect();
    let done = match words.first().map(String::as_str) {
        Some("check") => check(),
        Some("tidy") => tidy(),
        Some("gen-docs") => gen_docs(),
        Some("bench") => bench::run(&words[1..], &root()),
        _ => Err(USAGE.into()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("{message}");
            ExitCode::FAILURE
        }
    }
}

fn check() -> Result<(), String> {
    cargo("fmt --all --check")?;
    tidy()?;
    cargo("clippy --quiet --workspace --all-targets -- -D warnings")?;
    cargo("test --workspace")
}

fn tidy() -> Result<(), String> {
    eprintln!("xtask: tidy");
    let problems = tidy::problems(&root());
    if problems.is_empty() {
        Ok(())
    } else {
        Err(format!("{}\nxtask: tidy found {} problems", problems.join("\n"), problems.len()))
    }
}

fn gen_docs() -> Result<(), String> {
    for (flags, page) in [("", "docs/cli.md"), (" --arguments", "docs/guide/arguments.md")] {
        let run = format!("run --quiet --package embertune-cli -- gen_docs{flags}");
        let output = command(&run).output().map_err(|error| error.to_string())?;
        if !output.status.success() {
            return Err(String::from_utf8_lossy(&output.stderr).into_owned());
        }
        std::fs::write(root().join(page), output.stdout).map_err(|error| format!("{page}: {error}"))?;
    }
    Ok(())
}

fn cargo(arguments: &str) -> Result<(), String> {
    eprintln!("xtask: cargo {arguments}");
    let status = command(arguments).status().map_err(|error| format!("cargo: {error}"))?;
    if status.success() { Ok(()) } else { Err(format!("xtask: `cargo {arguments}` failed")) }
}

fn command(arguments: &str) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(arguments.split(' ')).current_dir(root());
    command
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies in the repository").to_path_buf()
}

//! `embertune gen_docs`: the pages docs/cli.md and docs/guide/arguments.md, from the same definitions as `--help`.

use clap::{Arg, Command};
use embertune::Result;

use crate::args::{Cli, refused};
use crate::printer;

/// Width of the help texts, whatever the terminal.
const WIDTH: usize = 110;

/// The arguments of TrainingArguments, one a line.
const TRAINING_ARGUMENTS: &str = include_str!("../args/training_arguments.txt");

/// Prints one of the pages.
pub fn run(arguments: bool) -> Result<()> {
    printer::print(&if arguments { arguments_page() } else { reference() })
}

/// What becomes of each argument that transformers knows.
fn arguments_page() -> String {
    let cli = Cli::definition();
    let train = cli.find_subcommand("train");
    let mut text = String::from(
        "# Arguments of transformers\n\nMade from the program by `cargo xtask gen-docs`; not to be edited by hand. What `embertune \
         train` does with each\nargument of TrainingArguments in transformers 5, and of sentence-transformers' own: taken, or refused by \
         name, with\nthis reason, on the command line and in a `--config` file. All other flags of `train` are in [the \
         reference](../cli.md).\n\n| argument | here |\n|---|---|\n",
    );
    for name in names() {
        text += &format!("| `{name}` | {} |\n", what_becomes_of(name, train));
    }
    text
}

fn names() -> impl Iterator<Item = &'static str> {
    TRAINING_ARGUMENTS.lines().filter(|line| !line.starts_with('#'))
}

fn what_becomes_of(name: &str, train: Option<&Command>) -> String {
    let flag = train.and_then(|train| train.get_arguments().find(|flag| flag.get_long() == Some(name)));
    match (flag.and_then(Arg::get_help), refused::reason(name)) {
        (Some(help), _) => format!("taken: {help}").replace('|', "\\|").replace('<', "&lt;"),
        (None, Some((reason, hint))) => {
            let accepted = refused::so_anyway(name).map(|so| format!("; `{so}` is accepted")).unwrap_or_default();
            let hint = hint.strip_prefix("leave it out").unwrap_or(hint);
            let hint = hint.strip_prefix("; ").unwrap_or(hint);
            format!("refused: {reason}{}{hint}{accepted}", if hint.is_empty() { "" } else { "; " })
        }
        (None, None) => "not known".into(),
    }
}

fn reference() -> String {
    let mut text = String::from(
        "# Command-line reference\n\nMade from the program by `cargo xtask gen-docs`; not to be edited by hand.\n",
    );
    for command in Cli::definition().get_subcommands_mut().filter(|command| !command.is_hide_set()) {
        let aliases: Vec<_> = command.get_visible_aliases().map(|alias| format!("`{alias}`")).collect();
        let also = if aliases.is_empty() { String::new() } else { format!("Also called {}.\n\n", aliases.join(", ")) };
        let name = format!("embertune {}", command.get_name());
        let help = command.clone().bin_name(&name).term_width(WIDTH).render_long_help().to_string();
        let help: Vec<_> = help.lines().map(str::trim_end).collect();
        text += &format!("\n## {name}\n\n{also}```text\n{}\n```\n", help.join("\n").trim_end());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_argument_of_transformers_is_a_flag_or_refused_with_a_reason() {
        let cli = Cli::definition();
        let train = cli.find_subcommand("train");
        assert!(names().count() > 100);
        for name in names() {
            assert_ne!(what_becomes_of(name, train), "not known", "{name}");
        }
    }
}

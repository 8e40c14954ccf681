//! `embertune gen_docs`: the page docs/cli.md, from the same definitions as `--help`.

use embertune::Result;

use crate::args::Cli;
use crate::printer;

/// Width of the help texts, whatever the terminal.
const WIDTH: usize = 110;

/// Runs the command.
pub fn run() -> Result<()> {
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
    printer::print(&text)
}

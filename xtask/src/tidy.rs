//! The rules of the source tree that neither rustc nor clippy knows. STYLE.md says why each of them is there.

use std::fs;
use std::path::Path;
use std::process::Command;

/// Longest source file, without the tests in it.
const MAX_LINES: usize = 800;

/// Names that say nothing about what is inside.
const EMPTY_NAMES: [&str; 5] = ["utils", "helpers", "common", "misc", "base"];

/// Which modules of the library may use which others; the direction in which data flows. `error` and `progress` are open to all.
const MAY_USE: [(&str, &[&str]); 18] = [
    ("error", &[]),
    ("progress", &[]),
    ("random", &[]),
    ("device", &[]),
    ("comm", &[]),
    ("data", &[]),
    ("text", &[]),
    ("model", &["text"]),
    ("loss", &[]),
    ("optim", &["model"]),
    ("embed", &["comm", "data", "text", "model"]),
    ("search", &["comm", "embed"]),
    ("mine", &["comm", "data", "text", "model", "embed", "search", "random"]),
    ("eval", &["comm", "data", "text", "model", "embed", "search", "random"]),
    ("audit", &["data", "text", "model", "embed", "search", "mine", "eval", "random"]),
    (
        "train",
        &["comm", "data", "text", "model", "loss", "optim", "random", "device", "embed", "search", "mine", "eval"],
    ),
    ("report", &["data", "eval", "train"]),
    ("lib", &[]),
];

/// Everything that is wrong, one line each: `path:line: what`.
pub fn problems(root: &Path) -> Vec<String> {
    let files = tracked(root);
    let mut problems = Vec::new();
    for path in files.iter().filter(|path| path.ends_with(".rs")) {
        match fs::read_to_string(root.join(path)) {
            Ok(text) => source(path, &text, &mut problems),
            Err(error) => problems.push(format!("{path}: {error}")),
        }
    }
    for page in ["ARCHITECTURE.md", "CONTRIBUTING.md"] {
        match fs::read_to_string(root.join(page)) {
            Ok(text) => paths_exist(root, page, &text, &mut problems),
            Err(error) => problems.push(format!("{page}: {error}")),
        }
    }
    problems
}

/// Tracked and new files, not the ignored ones.
fn tracked(root: &Path) -> Vec<String> {
    let output =
        Command::new("git").args(["ls-files", "--cached", "--others", "--exclude-standard"]).current_dir(root).output();
    let names = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    names.lines().filter(|name| root.join(name).exists()).map(str::to_string).collect()
}

fn source(path: &str, text: &str, problems: &mut Vec<String>) {
    let mut say = |line: usize, what: String| problems.push(format!("{path}:{line}: {what}"));
    if !text.starts_with("//!") {
        say(1, "the file does not say what it is: begin with `//!`".into());
    }
    let stem = path.rsplit('/').next().unwrap_or(path).trim_end_matches(".rs");
    let folder = path.rsplit('/').nth(1).unwrap_or("");
    if EMPTY_NAMES.contains(&stem) || EMPTY_NAMES.contains(&folder) {
        say(1, "name the file after what is in it".into());
    }
    let is_test_file = path.contains("/tests/") || stem == "tests";
    let code = text.split("\n#[cfg(test)]\nmod ").next().unwrap_or(text);
    if !is_test_file && code.lines().count() > MAX_LINES {
        say(MAX_LINES, format!("more than {MAX_LINES} lines: split it by concept"));
    }
    if stem == "ops" {
        pairs(code, &mut say);
    }
    for (number, line) in text.lines().enumerate().map(|(i, line)| (i + 1, line)) {
        if line.contains(concat!("TO", "DO")) && !line.contains('#') {
            say(number, "which issue is it? write the number, like `#12`".into());
        }
    }
    if is_test_file {
        return;
    }
    for (number, line) in code.lines().enumerate().map(|(i, line)| (i + 1, line.trim_start())) {
        if line.starts_with("//") {
            continue;
        }
        let is_tool = path.starts_with("xtask/") || path.contains("/benches/") || path.contains("/examples/");
        if line.contains(".unwrap()") && !is_tool {
            say(number, "user input must not panic: return an error, or say in `expect` why it cannot happen".into());
        }
        if ["println!", "print!("].iter().any(|call| line.contains(call)) && !line.contains("eprint") && !is_tool {
            say(number, "standard output is for the CLI's printer.rs alone".into());
        }
        if let Some(module) = path.strip_prefix("crates/embertune/src/") {
            imports(module, line, |what| say(number, what));
        }
    }
}

/// Whether the line of the library's file `path` (below `src/`) uses only what its module may use.
fn imports(path: &str, line: &str, mut say: impl FnMut(String)) {
    let module = path.split(['/', '.']).next().unwrap_or(path);
    let Some((_, allowed)) = MAY_USE.iter().find(|(name, _)| *name == module) else {
        return say(format!("module `{module}` has no line in tidy's table of imports"));
    };
    let first_word = |text: &str| text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
    let names = line.split("crate::").skip(1).flat_map(|used| match used.strip_prefix('{') {
        Some(list) => list.split(',').map(|item| first_word(item.trim_start())).collect(),
        None => vec![first_word(used)],
    });
    for name in names {
        let is_module = MAY_USE.iter().any(|(known, _)| *known == name);
        let is_open = [module, "error", "progress"].contains(&name.as_str());
        if is_module && !is_open && !allowed.contains(&name.as_str()) {
            say(format!("`{module}` may not use `{name}`: see the import rules in ARCHITECTURE.md"));
        }
    }
}

/// Every operation has both directions.
fn pairs(code: &str, say: &mut impl FnMut(usize, String)) {
    for (number, line) in code.lines().enumerate() {
        for (this, other) in [("_forward(", "_backward("), ("_backward(", "_forward(")] {
            let name =
                line.trim_start().strip_prefix("fn ").and_then(|rest| rest.split_once(this)).map(|(name, _)| name);
            if let Some(name) = name
                && !code.contains(&format!("fn {name}{other}"))
            {
                say(
                    number + 1,
                    format!("`{name}{}` has no `{name}{}`", this.trim_end_matches('('), other.trim_end_matches('(')),
                );
            }
        }
    }
}

/// Every path in backticks exists: from the repository, or from `crates/`.
fn paths_exist(root: &Path, page: &str, text: &str, problems: &mut Vec<String>) {
    for (number, line) in text.lines().enumerate() {
        for quoted in line.split('`').skip(1).step_by(2) {
            let is_path = quoted.contains('/')
                && !quoted.contains([' ', '<', '*', '$', '(', '{', ':'])
                && !quoted.starts_with('.');
            let path = quoted.trim_end_matches('/');
            if is_path && !root.join(path).exists() && !root.join("crates").join(path).exists() {
                problems.push(format!("{page}:{}: `{quoted}` does not exist", number + 1));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(path: &str, text: &str) -> Vec<String> {
        let mut problems = Vec::new();
        source(path, text, &mut problems);
        problems
    }

    #[test]
    fn each_rule_finds_its_breach() {
        let header = "//! What it is.\n";
        let long = format!("{header}{}", "// more\n".repeat(MAX_LINES));
        for (path, text, expected) in [
            ("crates/a/src/x.rs", "fn f() {}\n".to_string(), "does not say what it is"),
            ("crates/a/src/utils.rs", header.to_string(), "name the file"),
            ("crates/a/src/x.rs", long, "more than 800 lines"),
            ("crates/a/src/x.rs", format!("{header}x.unwrap();\n"), "must not panic"),
            ("crates/a/src/x.rs", format!("{header}println!();\n"), "printer.rs"),
            ("crates/a/src/x.rs", format!("{header}// {}: later\n", concat!("TO", "DO")), "which issue"),
            ("crates/a/src/ops.rs", format!("{header}    fn scale_forward(\n"), "has no `scale_backward`"),
            ("crates/embertune/src/loss/x.rs", format!("{header}use crate::model::Batch;\n"), "may not use `model`"),
            (
                "crates/embertune/src/loss/x.rs",
                format!("{header}use crate::{{Error, model::Batch}};\n"),
                "may not use `model`",
            ),
            ("crates/embertune/src/new/x.rs", format!("{header}fn f() {{}}\n"), "no line in tidy's table"),
        ] {
            let problems = found(path, &text);
            assert!(problems.iter().any(|problem| problem.contains(expected)), "{expected}: {problems:?}");
        }
    }

    #[test]
    fn tests_may_do_what_the_code_may_not() {
        let text = "//! What it is.\n\n#[cfg(test)]\nmod tests {\n    x.unwrap();\n}\n";
        assert_eq!(found("crates/a/src/x.rs", text), Vec::<String>::new());
        assert_eq!(
            found("crates/a/tests/it/x.rs", "//! What it is.\nx.unwrap();\nprintln!();\n"),
            Vec::<String>::new()
        );
    }

    #[test]
    fn paths_in_pages_are_looked_up() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let mut problems = Vec::new();
        paths_exist(&root, "P.md", "`xtask/src/tidy.rs` `embertune/src/` `a b/c` `xtask/missing.rs`", &mut problems);
        assert_eq!(problems, ["P.md:1: `xtask/missing.rs` does not exist"]);
    }
}

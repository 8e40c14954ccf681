//! Running the command in a folder of its own, with a tiny model and a little data.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use tempfile::TempDir;

/// A folder with a model `model`, rows `rows.jsonl`, and a pool `pool.jsonl`.
pub struct Desk {
    pub folder: TempDir,
}

/// What a command did.
pub struct Done {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Done {
    pub fn of(output: Output) -> Done {
        Done {
            code: output.status.code().unwrap(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// Panics with all that was said unless the command succeeded.
    pub fn ok(self) -> Done {
        assert_eq!(self.code, 0, "{}\n{}", self.stdout, self.stderr);
        self
    }
}

const THINGS: [&str; 10] = ["editor", "mail", "chess", "radio", "photo", "clock", "music", "poem", "map", "network"];
const DEEDS: [&str; 5] = ["reads", "writes", "sorts", "draws", "counts"];

impl Desk {
    pub fn new() -> Desk {
        let desk = Desk { folder: tempfile::tempdir().unwrap() };
        let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/tiny-bert");
        copy(&model, &desk.path("model"));
        let pairs = || THINGS.iter().flat_map(|thing| DEEDS.map(|deed| (*thing, deed)));
        let rows: Vec<_> = pairs()
            .map(|(thing, deed)| {
                format!(r#"{{"query": "{thing} {deed}", "pos": ["a program that {deed} every {thing}"]}}"#)
            })
            .collect();
        let pool: Vec<_> =
            pairs().map(|(thing, deed)| format!(r#"{{"context": ["a program that {deed} every {thing}"]}}"#)).collect();
        desk.write("rows.jsonl", rows.join("\n"));
        desk.write("pool.jsonl", pool.join("\n"));
        desk
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn write(&self, name: &str, text: impl AsRef<[u8]>) {
        fs::write(self.path(name), text).unwrap();
    }

    pub fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap()
    }

    /// Everything in the folder, sorted.
    pub fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.folder.path()).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    /// Runs `embertune` with these arguments, split at blanks; `""` stands for an empty one. No network, no cache.
    pub fn run(&self, arguments: &str) -> Done {
        Done::of(self.command(arguments).output().unwrap())
    }

    pub fn command(&self, arguments: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_embertune"));
        command.args(arguments.split_whitespace().map(|argument| if argument == r#""""# { "" } else { argument }));
        command.current_dir(self.folder.path()).stdin(Stdio::null());
        command.env("HF_HUB_OFFLINE", "1").env("HF_HUB_CACHE", self.path("no-cache"));
        command
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

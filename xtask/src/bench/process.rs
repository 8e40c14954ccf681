//! The processes of a benchmark: commands that run once and are measured, and the peer that stays and answers.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use serde_json::{Value, json};

/// What a command took.
#[derive(Clone, Copy, Debug)]
pub struct Took {
    /// From its start to its end.
    pub seconds: f64,
    /// Largest resident memory.
    pub peak_mib: f64,
}

/// Runs commands through `bench/measure.py`, since Rust's standard library does not tell a child's memory.
pub struct Runner {
    pub python: PathBuf,
    pub scripts: PathBuf,
    /// Where reports and what the commands print are kept.
    pub logs: PathBuf,
}

impl Runner {
    /// Runs `program` to its end. Gives what it took and what it printed on standard output.
    pub fn run(&self, program: &Path, arguments: &[String], threads: usize) -> Result<(Took, String), String> {
        let report = self.logs.join("measured.json");
        let output = Command::new(&self.python)
            .arg(self.scripts.join("measure.py"))
            .arg(&report)
            .arg(program)
            .args(arguments)
            .env("RAYON_NUM_THREADS", threads.to_string())
            .output()
            .map_err(|error| format!("{}: {error}", self.python.display()))?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            let command = format!("{} {}", program.display(), arguments.join(" "));
            return Err(format!("`{command}` failed:\n{}", last_lines(&said, 10)));
        }
        let report = read_json(&report)?;
        let took = Took { seconds: number(&report, "seconds")?, peak_mib: number(&report, "peak_bytes")? / MIB };
        Ok((took, String::from_utf8_lossy(&output.stdout).into_owned()))
    }

    /// Starts `bench/peer.py`. What it prints besides its answers goes to `peer.log`.
    pub fn peer(&self, threads: usize) -> Result<Peer, String> {
        let log = self.logs.join("peer.log");
        let said = File::create(&log).map_err(|error| format!("{}: {error}", log.display()))?;
        let mut child = Command::new(&self.python)
            .arg(self.scripts.join("peer.py"))
            .env("HF_HUB_OFFLINE", "1")
            .env("TOKENIZERS_PARALLELISM", "true")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(said)
            .spawn()
            .map_err(|error| format!("{}: {error}", self.python.display()))?;
        let (Some(input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            return Err("the peer has no pipes".into());
        };
        let mut peer = Peer { child, input, output: BufReader::new(output), log };
        peer.ask(json!({"do": "threads", "n": threads}))?;
        Ok(peer)
    }
}

const MIB: f64 = 1024.0 * 1024.0;

/// `bench/peer.py`, which has everything loaded after its first answers.
pub struct Peer {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    log: PathBuf,
}

impl Peer {
    /// Its answer to `question`, `{"do": NAME, ...}`.
    pub fn ask(&mut self, question: Value) -> Result<Value, String> {
        let failed = |what: String| format!("the peer {what}, asked for {question}");
        writeln!(self.input, "{question}").map_err(|error| failed(format!("does not listen ({error})")))?;
        let mut line = String::new();
        self.output.read_line(&mut line).map_err(|error| failed(format!("cannot be read ({error})")))?;
        if line.is_empty() {
            let said = std::fs::read_to_string(&self.log).unwrap_or_default();
            return Err(failed(format!("ended: {}", last_lines(&said, 10))));
        }
        let answer: Value =
            serde_json::from_str(&line).map_err(|error| failed(format!("answered {line:?} ({error})")))?;
        match answer.get("error") {
            Some(error) => Err(failed(format!("failed: {}", error.as_str().unwrap_or_default()))),
            None => Ok(answer),
        }
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // Nobody is there to be told; a peer that is gone already is what is wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A field that is a number.
pub fn number(object: &Value, field: &str) -> Result<f64, String> {
    object.get(field).and_then(Value::as_f64).ok_or_else(|| format!("no number `{field}` in {object}"))
}

/// A field that is a list of numbers.
pub fn numbers(object: &Value, field: &str) -> Result<Vec<f64>, String> {
    let list = object.get(field).and_then(Value::as_array);
    let list = list.and_then(|list| list.iter().map(Value::as_f64).collect::<Option<Vec<_>>>());
    list.ok_or_else(|| format!("no list of numbers `{field}` in {object}"))
}

/// A whole file of JSON.
pub fn read_json(path: &Path) -> Result<Value, String> {
    let text = std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
    serde_json::from_str(&text).map_err(|error| format!("{}: {error}", path.display()))
}

fn last_lines(text: &str, n: usize) -> String {
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(n)..].join("\n")
}

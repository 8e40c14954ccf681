//! The options of `cargo xtask bench`: a kind of benchmark, then `--name value`.

use std::path::{Path, PathBuf};

pub const USAGE: &str = "\
usage: cargo xtask bench <train|encode|search|mine|kernels> [options]
  --data DIR          folder with the data sets [../shared/data beside the repository]
  --sets A,B          debian-packages (short texts), cosqa (mixed), feedbackqa (long) [all three]
  --models A,B        minilm, mpnet [both]
  --pairs N           counted runs of each side, in turns [5]
  --precision A,B     what Embertune computes in: auto, fp32, bf16 [auto, and fp32 where auto is something else]
  --threads N         threads of both sides [one per core]
  --work A,B          parts of `train`: step, memory, threads, large_batch [step]
                      parts of `search`: 60k, 1m, of `encode`: passages, start [all]
  --passages N        passages that `encode` encodes, queries that `mine` mines for [2000 and all]
  --machine NAME      name of the machine in bench/runs/<date>-<name> [from its CPU]
  --quick             one pair of little work, to see that everything runs; its numbers are not kept
How it compares and what it writes: bench/README.md";

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Train,
    Encode,
    Search,
    Mine,
    Kernels,
}

impl Kind {
    const ALL: [(&str, Kind); 5] = [
        ("train", Kind::Train),
        ("encode", Kind::Encode),
        ("search", Kind::Search),
        ("mine", Kind::Mine),
        ("kernels", Kind::Kernels),
    ];

    pub fn name(self) -> &'static str {
        Kind::ALL.into_iter().find(|(_, kind)| *kind == self).map_or("", |(name, _)| name)
    }
}

/// A published model and its usual batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Model {
    /// As in the options and in `scripts/get-models`.
    pub name: &'static str,
    pub folder: &'static str,
    pub batch: usize,
    pub layers: usize,
    pub hidden: usize,
}

const MODELS: [Model; 2] = [
    Model { name: "minilm", folder: "all-MiniLM-L6-v2", batch: 32, layers: 6, hidden: 384 },
    Model { name: "mpnet", folder: "all-mpnet-base-v2", batch: 16, layers: 12, hidden: 768 },
];

/// MiniLM finds the hard negatives and makes the vectors that are searched, whatever is measured.
pub const MINILM: Model = MODELS[0];

pub const SETS: [&str; 3] = ["debian-packages", "cosqa", "feedbackqa"];

/// Everything that was asked for.
#[derive(Clone, Debug)]
pub struct Options {
    pub kind: Kind,
    pub data: PathBuf,
    pub sets: Vec<&'static str>,
    pub models: Vec<Model>,
    pub pairs: usize,
    /// Empty: `auto`, and `fp32` where that is something else.
    pub precisions: Vec<&'static str>,
    pub threads: usize,
    /// Empty: the kind's own choice.
    pub work: Vec<&'static str>,
    pub passages: Option<usize>,
    pub machine: Option<String>,
    pub quick: bool,
}

const PRECISIONS: [&str; 3] = ["auto", "fp32", "bf16"];
const WORK: [&str; 8] = ["step", "memory", "threads", "large_batch", "60k", "1m", "passages", "start"];

impl Options {
    /// From the words after `bench`.
    pub fn parse(words: &[String], root: &Path) -> Result<Options, String> {
        let [kind, rest @ ..] = words else { return Err(USAGE.into()) };
        let Some((_, kind)) = Kind::ALL.into_iter().find(|(name, _)| name == kind) else {
            return Err(format!("`{kind}` is not known\n{USAGE}"));
        };
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let mut options = Options {
            kind,
            data: root.join("../shared/data"),
            sets: SETS.to_vec(),
            models: MODELS.to_vec(),
            pairs: 5,
            precisions: Vec::new(),
            threads,
            work: Vec::new(),
            passages: None,
            machine: None,
            quick: false,
        };
        let mut rest = rest.iter();
        let mut pairs = None;
        while let Some(name) = rest.next() {
            if name == "--quick" {
                options.quick = true;
                continue;
            }
            let value = rest.next().ok_or_else(|| format!("`{name}` has no value\n{USAGE}"))?;
            match name.as_str() {
                "--data" => options.data = value.into(),
                "--sets" => options.sets = some_of(name, value, &SETS.map(|set| (set, set)))?,
                "--models" => options.models = some_of(name, value, &MODELS.map(|model| (model.name, model)))?,
                "--pairs" => pairs = Some(number(name, value)?),
                "--precision" => options.precisions = some_of(name, value, &PRECISIONS.map(|name| (name, name)))?,
                "--threads" => options.threads = number(name, value)?,
                "--work" => options.work = some_of(name, value, &WORK.map(|name| (name, name)))?,
                "--passages" => options.passages = Some(number(name, value)?),
                "--machine" => options.machine = Some(value.clone()),
                _ => return Err(format!("`{name}` is not known\n{USAGE}")),
            }
        }
        if options.quick {
            options.sets.truncate(1);
            options.models.truncate(1);
        }
        options.pairs = pairs.unwrap_or(if options.quick { 1 } else { 5 });
        Ok(options)
    }

    /// Whether a part of the benchmark is asked for; `by_default` are those that are, where none is named.
    pub fn wants(&self, part: &str, by_default: &[&str]) -> bool {
        if self.work.is_empty() { by_default.contains(&part) } else { self.work.contains(&part) }
    }
}

/// The entries of `known` that `value` names, in its order.
fn some_of<T: Clone>(name: &str, value: &str, known: &[(&str, T)]) -> Result<Vec<T>, String> {
    let names: Vec<_> = known.iter().map(|(name, _)| *name).collect();
    let find = |word: &str| {
        let found = known.iter().find(|(name, _)| *name == word).map(|(_, entry)| entry.clone());
        found.ok_or_else(|| format!("`{name} {word}` is not known: one of {}", names.join(", ")))
    };
    value.split(',').map(find).collect()
}

fn number(name: &str, value: &str) -> Result<usize, String> {
    let number = value.parse().ok().filter(|n| *n > 0);
    number.ok_or_else(|| format!("`{name} {value}`: a number from 1 is needed"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &str) -> Result<Options, String> {
        let words: Vec<_> = words.split_whitespace().map(String::from).collect();
        Options::parse(&words, Path::new("/r"))
    }

    #[test]
    fn options_are_read_in_any_order_and_unknown_ones_are_refused() {
        let options = parse("train --sets cosqa,feedbackqa --pairs 3 --models mpnet").unwrap();
        assert_eq!((options.sets, options.pairs), (vec!["cosqa", "feedbackqa"], 3));
        assert_eq!(options.models[0].name, "mpnet");
        for (bad, said) in [
            ("", "usage"),
            ("fly", "`fly`"),
            ("train --sets x", "one of debian-packages"),
            ("train --pairs 0", "from 1"),
            ("train --pairs", "has no value"),
            ("train --speed 1", "`--speed`"),
        ] {
            assert!(parse(bad).unwrap_err().contains(said), "{bad}");
        }
    }

    #[test]
    fn quick_is_one_pair_of_one_model_on_one_set_unless_pairs_are_named() {
        let options = parse("train --quick").unwrap();
        assert_eq!((options.sets.len(), options.models.len(), options.pairs), (1, 1, 1));
        assert_eq!(parse("train --quick --pairs 2").unwrap().pairs, 2);
    }

    #[test]
    fn parts_are_those_named_or_the_usual_ones() {
        assert!(parse("train").unwrap().wants("step", &["step"]));
        let named = parse("train --work memory").unwrap();
        assert!(named.wants("memory", &["step"]) && !named.wants("step", &["step"]));
    }
}

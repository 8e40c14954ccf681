//! Which stages `tune` has and what it decides for them. The rule is in `docs/guide/tune.md`, with its reasons.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

use embertune::data::files::check_readable_again;
use embertune::data::files::{files_of, for_each_row};
use embertune::data::source::Raw;
use embertune::data::{Columns, Pool, TextId, read_examples_by, read_pool, read_rows_by};
use embertune::eval::TestSet;
use embertune::eval::slices::check_fields;
use embertune::model::resolve;
use embertune::progress::{Progress, Silent};
use embertune::{Error, Result};
use serde_json::Value;

use crate::args::TuneArgs;
use crate::args::model::{MachineArgs, ModelChangeArgs};

/// The folder of the tuned model, in that of `tune`.
pub const MODEL: &str = "model";
/// So many queries tell differences of a hundredth from chance; more would only cost rows.
const ENOUGH_TEST_QUERIES: f64 = 2000.0;
/// So many are enough to tell epochs from each other.
const ENOUGH_DEV_QUERIES: f64 = 1000.0;
/// Of fewer, two or three would be left to judge on.
const FEWEST_QUERIES: usize = 20;
/// From so many queries for each distinct positive on, positives are labels, and passages of the same label are right answers, too.
const LABELS: f64 = 3.0;
/// Larger pools are not searched after every epoch: the passages of the dev rows have to do.
const LARGEST_DEV_POOL: usize = 20_000;

/// What the rule looks at.
pub struct Facts {
    n_rows: usize,
    /// Rows for each distinct positive, on average.
    queries_per_positive: f64,
    /// Width of the model's token vectors.
    hidden: usize,
    model_files: Vec<PathBuf>,
    data_files: Vec<PathBuf>,
    /// Whether the rows need another form first: they are tables, or have columns of other names.
    is_converted: bool,
    /// The passages that are searched.
    pub pool: Pool,
}

impl Facts {
    /// Looks at the data and the model.
    ///
    /// # Errors
    /// Files that cannot be read.
    pub fn read(args: &TuneArgs, progress: &dyn Progress) -> Result<Facts> {
        let read = [Some(&args.data), args.test.as_ref(), args.candidate_pool.as_ref()];
        read.into_iter().flatten().try_for_each(|path| check_readable_again(path))?;
        let columns = args.columns.clone().unwrap_or_default();
        let mut probes = args.probe.iter().flat_map(|probe| probe.split(',')).map(Path::new);
        if let Some(path) = probes.find(|path| !path.exists()) {
            return Err(Error::Data {
                path: path.into(),
                problem: "there is no such file or folder".into(),
                hint: Some("a probe is a BEIR folder, or a pool and rows: `--probe pool.jsonl,rows.jsonl`".into()),
            });
        }
        if !args.slice_by.is_empty() {
            let rows = read_rows_by(args.test.as_ref().unwrap_or(&args.data), &columns, &Silent)?;
            let set = TestSet::of_row_file("test", rows, Vec::new(), &Silent);
            check_fields(&args.slice_by, || set.queries.iter().map(|query| &query.fields))?;
        }
        let rows = read_examples_by(&args.data, &columns, progress)?;
        let queries: HashSet<_> = rows.iter().map(|row| TextId::of(&row.query)).collect();
        if queries.len() < FEWEST_QUERIES {
            return Err(Error::Data {
                path: args.data.clone(),
                problem: format!(
                    "{} different queries are too few to learn from, to choose by and to judge on: {FEWEST_QUERIES} are needed",
                    queries.len()
                ),
                hint: Some("collect more rows; some hundred make a difference that can be shown".into()),
            });
        }
        let test = args.test.as_deref().map(|path| read_examples_by(path, &columns, progress)).transpose()?;
        let mut positives: Vec<_> = rows.iter().flat_map(|row| &row.positives).map(|text| TextId::of(text).0).collect();
        let n_positives = positives.len();
        positives.sort_unstable();
        positives.dedup();
        let passages = || {
            rows.iter().chain(test.iter().flatten()).flat_map(|row| row.positives.iter().chain(&row.negatives)).cloned()
        };
        let pool = match &args.candidate_pool {
            Some(path) => Pool::new(read_pool(path, progress)?),
            None => Pool::new(passages()),
        };
        let mut is_converted = args.columns.is_some();
        for_each_row(&args.data, &columns, |_, raw| {
            is_converted |= matches!(raw, Raw::Csv(..));
            Ok(())
        })?;
        let folder = resolve(&args.model, progress)?;
        Ok(Facts {
            n_rows: rows.len(),
            queries_per_positive: n_positives as f64 / positives.len().max(1) as f64,
            hidden: hidden_size(&folder)?,
            model_files: ["config.json", "model.safetensors", "pytorch_model.bin"]
                .map(|name| folder.join(name))
                .into_iter()
                .filter(|path| path.is_file())
                .collect(),
            data_files: files_of(&args.data)?,
            is_converted,
            pool,
        })
    }

    fn has_labels(&self) -> bool {
        self.queries_per_positive >= LABELS
    }

    /// In words, one line each.
    pub fn lines(&self) -> Vec<String> {
        let labels = match self.has_labels() {
            true => {
                ": positives are labels, so that nothing is mined, and what is closer than the positive is no negative"
            }
            false => "",
        };
        vec![
            format!("{} rows, {} passages to search", self.n_rows, self.pool.len()),
            format!("{:.1} queries for each positive{labels}", self.queries_per_positive),
            format!("a model of width {}", self.hidden),
        ]
    }
}

fn hidden_size(folder: &Path) -> Result<usize> {
    let path =
        ["config.json", "0_Transformer/config.json"].map(|name| folder.join(name)).into_iter().find(|p| p.is_file());
    let Some(path) = path else {
        let problem = "there is no `config.json` in it".into();
        return Err(Error::Model { path: folder.into(), problem, hint: Some("name the folder of a model".into()) });
    };
    let text = fs::read_to_string(&path).map_err(Error::io(&path, "read"))?;
    let config: Value = serde_json::from_str(&text).map_err(|error| Error::Model {
        path: path.clone(),
        problem: format!("not valid JSON: {error}"),
        hint: None,
    })?;
    // DistilBERT calls it `dim`. What it is called otherwise is for the loading of the model to refuse.
    let width = ["hidden_size", "dim"].iter().find_map(|key| config.get(key)?.as_u64());
    Ok(width.unwrap_or(768) as usize)
}

/// A step of the work.
pub struct Stage {
    /// What to call it.
    pub name: &'static str,
    /// What it is for.
    pub why: String,
    /// The words after `embertune`.
    pub command: Vec<String>,
    /// Files that decide what comes out.
    pub reads: Vec<PathBuf>,
    /// What is there when it is done.
    pub writes: Vec<PathBuf>,
}

impl Stage {
    /// Where a training is until it is done.
    pub fn partial(&self) -> Option<PathBuf> {
        (self.name == "train").then(|| PathBuf::from(format!("{}.partial", self.writes[0].display())))
    }

    /// Checkpoints have done their work when the model is there, and are three times its size.
    pub fn clean_up(&self) -> Result<()> {
        if self.name != "train" {
            return Ok(());
        }
        let model = &self.writes[0];
        for entry in fs::read_dir(model).map_err(Error::io(model, "read"))?.flatten() {
            if entry.file_name().to_string_lossy().starts_with("checkpoint-") {
                fs::remove_dir_all(entry.path()).map_err(Error::io(entry.path(), "remove"))?;
            }
        }
        Ok(())
    }
}

/// All stages in their order.
pub struct Plan {
    /// Each reads what those before it wrote.
    pub stages: Vec<Stage>,
    /// The pool of candidates, where the user names none.
    pub pool_to_make: Option<PathBuf>,
}

/// What the rule decides.
#[derive(Debug, PartialEq)]
struct Choices {
    dev: f64,
    test: f64,
    batch_size: usize,
    epochs: f64,
    learning_rate: f64,
    temperature: f64,
    /// Hard negatives of a row in its batch; none are mined where it is 0.
    n_negatives: usize,
}

impl Choices {
    fn of(n_rows: usize, hidden: usize, has_labels: bool, has_test: bool) -> Choices {
        let n = n_rows as f64;
        let test = if has_test { 0.0 } else { rounded((ENOUGH_TEST_QUERIES / n).min(0.2)) };
        let dev = rounded((ENOUGH_DEV_QUERIES / n).min(0.1));
        let n_train = (n * (1.0 - test - dev)) as usize;
        let (batch_size, epochs) = match n_train {
            0..500 => (16, 4.0),
            500..2_000 => (32, 3.0),
            2_000..20_000 => (32, 2.0),
            _ => (64, 1.0),
        };
        let learning_rate = match hidden {
            0..=384 => 3e-5,
            385..=768 => 2e-5,
            _ => 1e-5,
        };
        Choices {
            dev,
            test,
            batch_size,
            epochs,
            learning_rate,
            temperature: if n_train < 2_000 || has_labels { 0.05 } else { 0.02 },
            n_negatives: if has_labels { 0 } else { 1 },
        }
    }
}

/// A share of three digits, never 0.
fn rounded(share: f64) -> f64 {
    (share * 1000.0).ceil() / 1000.0
}

impl Plan {
    /// The stages for this data and this model.
    pub fn of(args: &TuneArgs, facts: &Facts) -> Plan {
        let choices = Choices::of(facts.n_rows, facts.hidden, facts.has_labels(), args.test.is_some());
        let at = |name: &str| args.out.join(name);
        let pool = args.candidate_pool.clone().unwrap_or_else(|| at("pool.jsonl"));
        // So that all stages after it know the names of the columns, and `split` makes JSON lines.
        let data = if facts.is_converted { at("rows.jsonl") } else { args.data.clone() };
        let convert_test = |test: &PathBuf| if args.columns.is_some() { at("test.jsonl") } else { test.clone() };
        let named_test = args.test.as_ref().map(convert_test);
        let test = named_test.clone().unwrap_or_else(|| at("data/test.jsonl"));
        let (train, dev) = (at("data/train.jsonl"), at("data/dev.jsonl"));
        let mined = at("train.mined.jsonl");
        let batch_size = args.per_device_train_batch_size.unwrap_or(choices.batch_size).to_string();
        let group_size = (1 + choices.n_negatives).to_string();
        let seed = args.seed.to_string();
        let mut builder = Builder { args, stages: Vec::new() };

        let columns = args.columns.as_ref().map(Columns::to_string);
        let mut convert = |name: &'static str, reads: Vec<PathBuf>, from: &Path, to: &Path| {
            let line = Line::new("convert").path(from).path(to).maybe_flag("--columns", columns.as_deref());
            builder.add(name, "rows as all other stages read them", line, reads, vec![to.into()], Texts::None);
        };
        if facts.is_converted {
            convert("convert", facts.data_files.clone(), &args.data, &data);
        }
        if let (Some(from), Some(to), Some(_)) = (&args.test, &named_test, &columns) {
            convert("convert test rows", vec![from.clone()], from, to);
        }
        let data_files = if facts.is_converted { vec![data.clone()] } else { facts.data_files.clone() };

        let audit = Line::new("audit")
            .path(&data)
            .maybe("--test", named_test.as_deref())
            .maybe("--candidate_pool", args.candidate_pool.as_deref())
            .flag("--query_max_len", QUERY_MAX_LEN)
            .flag("--passage_max_len", PASSAGE_MAX_LEN)
            .flag("--per_device_train_batch_size", &batch_size)
            .flag("--train_group_size", &group_size)
            .flag("--fail_on", "never")
            .named("--html", &at("audit.html"))
            .named("--output", &at("audit.json"));
        let mut reads = data_files.clone();
        reads.extend(named_test.iter().chain(&args.candidate_pool).cloned());
        builder.add(
            "audit",
            "what is wrong with the data",
            audit,
            reads,
            vec![at("audit.html"), at("audit.json")],
            Texts::MayShow,
        );

        let split = Line::new("split")
            .path(&data)
            .named("--out", &at("data"))
            .flag("--dev", &choices.dev.to_string())
            .flag("--test", &choices.test.to_string())
            .maybe("--apart_from", named_test.as_deref())
            .flag("--seed", &seed);
        let why = match &args.test {
            None => "queries to choose the best epoch on, and others for the verdict",
            Some(_) => "queries to choose the best epoch on; what the test rows ask is not learned from",
        };
        let mut reads = data_files;
        reads.extend(named_test.iter().cloned());
        builder.add("split", why, split, reads, vec![at("data")], Texts::None);

        let on_test = |line: Line| {
            let line = line.named("--index_file_jsonl_path", &pool).named("--query_file_jsonl_path", &test);
            args.probe.iter().fold(line, |line, probe| line.flag("--probe", probe))
        };
        // The baseline, the mining and the training search the same pool with the base model, the training and `compare` with the tuned one.
        let vectors = at("vectors");
        let base = at("base.json");
        let slices = args.slice_by.join(",");
        let kept_fields = Some(slices.as_str()).filter(|_| args.no_texts);
        let baseline = on_test(Line::new("evaluate").model(args))
            .named("--output", &base)
            .named("--vector_cache", &vectors)
            .maybe_flag("--slice_by", kept_fields);
        let mut reads = vec![pool.clone(), test.clone()];
        reads.extend(facts.model_files.iter().cloned());
        builder.add("baseline", "how good the model is as it is", baseline, reads, vec![base.clone()], Texts::MayShow);

        if choices.n_negatives > 0 {
            let mine = Line::new("mine")
                .model(args)
                .named("--input_file", &train)
                .named("--candidate_pool", &pool)
                .named("--output_file", &mined)
                .flag("--preset", "nv-retriever")
                .named("--vector_cache", &vectors)
                .flag("--seed", &seed);
            let mut reads = vec![train.clone(), pool.clone()];
            reads.extend(facts.model_files.iter().cloned());
            builder.add(
                "mine",
                "passages that the model confuses with right ones",
                mine,
                reads,
                vec![mined.clone()],
                Texts::None,
            );
        }

        let train_data = if choices.n_negatives > 0 { &mined } else { &train };
        let model = at(MODEL);
        let mut learn = Line::new("train")
            .model(args)
            .named("--train_data", train_data)
            .named("--eval_data", &dev)
            .named("--output_dir", &model)
            .named("--vector_cache", &vectors)
            .flag("--learning_rate", &short(args.learning_rate.unwrap_or(choices.learning_rate)))
            .flag("--num_train_epochs", &args.num_train_epochs.unwrap_or(choices.epochs).to_string())
            .flag("--per_device_train_batch_size", &batch_size)
            .flag("--train_group_size", &group_size)
            .flag("--temperature", &choices.temperature.to_string())
            .flag("--warmup_ratio", "0.1")
            .flag("--query_max_len", QUERY_MAX_LEN)
            .flag("--passage_max_len", PASSAGE_MAX_LEN)
            .flag("--eval_strategy", "epoch")
            .flag("--metric_for_best_model", "mrr@10")
            .flag("--load_best_model_at_end", "True")
            .flag("--merge_alpha", "auto")
            .flag("--logging_steps", "10")
            .flag("--save_steps", "200")
            .flag("--save_total_limit", "1")
            .flag("--seed", &seed);
        let mut reads = vec![train_data.clone(), dev.clone()];
        reads.extend(facts.model_files.iter().cloned());
        if facts.has_labels() {
            learn = learn.flag("--mask_margin", "0");
        }
        if facts.pool.len() <= LARGEST_DEV_POOL {
            learn = learn.named("--candidate_pool", &pool);
            reads.push(pool.clone());
        }
        builder.add(
            "train",
            "the best epoch by the dev queries is kept, and mixed with the base model where they show a gain by that",
            learn,
            reads,
            vec![model.clone()],
            Texts::None,
        );

        let verdict = at("verdict.json");
        let compare = on_test(Line::new("compare").path(&base).path(&model))
            .named("--save_verdict", &args.out)
            .named("--vector_cache", &vectors)
            .maybe_flag("--slice_by", Some(&slices));
        let reads = vec![base, model.join("model.safetensors"), pool.clone(), test.clone()];
        builder.add(
            "compare",
            "is it better on the test queries?",
            compare,
            reads,
            vec![verdict.clone()],
            Texts::MayShow,
        );

        let reads = vec![at("audit.json"), verdict, model.join("run.json")];
        let writes = vec![at("report.html"), at("report.md")];
        builder.add(
            "report",
            "a page of all of it",
            Line::new("report").path(&args.out),
            reads,
            writes,
            Texts::MayShow,
        );
        Plan { stages: builder.stages, pool_to_make: args.candidate_pool.is_none().then_some(pool) }
    }
}

/// No padding is computed, so generous limits cost only where texts are long.
const QUERY_MAX_LEN: &str = "128";
const PASSAGE_MAX_LEN: &str = "256";

/// `2e-5` rather than `0.00002`.
fn short(rate: f64) -> String {
    format!("{rate:e}")
}

/// Whether a command shows or keeps texts of the data.
#[derive(Clone, Copy, PartialEq)]
enum Texts {
    None,
    MayShow,
}

struct Builder<'a> {
    args: &'a TuneArgs,
    stages: Vec<Stage>,
}

impl Builder<'_> {
    fn add(
        &mut self,
        name: &'static str,
        why: &str,
        mut line: Line,
        reads: Vec<PathBuf>,
        writes: Vec<PathBuf>,
        texts: Texts,
    ) {
        if texts == Texts::MayShow && self.args.no_texts {
            line = line.word("--no_texts");
        }
        if matches!(name, "audit" | "baseline" | "mine" | "train" | "compare") {
            line = line.machine(&self.args.machine);
        }
        self.stages.push(Stage { name, why: why.into(), command: line.words, reads, writes });
    }
}

/// A command line that is being put together.
struct Line {
    words: Vec<String>,
}

impl Line {
    fn new(command: &str) -> Line {
        Line { words: vec![command.into()] }
    }

    fn word(mut self, word: &str) -> Line {
        self.words.push(word.into());
        self
    }

    fn path(self, path: &Path) -> Line {
        self.word(&path.to_string_lossy())
    }

    fn flag(self, name: &str, value: &str) -> Line {
        self.word(name).word(value)
    }

    fn named(self, name: &str, path: &Path) -> Line {
        self.flag(name, &path.to_string_lossy())
    }

    /// The base model, and what the user changes about it.
    fn model(self, args: &TuneArgs) -> Line {
        let ModelChangeArgs { pooling, normalized, max_seq_length, .. } = &args.changes;
        let is_normalized = normalized.map(|is_it| if is_it { "True" } else { "False" });
        let max_seq_length = max_seq_length.map(|n| n.to_string());
        let prompt = |line: Line, name: &str, prompt: &Option<String>| match prompt {
            Some(prompt) => line.flag(name, prompt),
            None => line,
        };
        let line = self
            .flag("--model_name_or_path", &args.model)
            .maybe_flag("--pooling", pooling.as_deref())
            .maybe_flag("--normalized", is_normalized)
            .maybe_flag("--max_seq_length", max_seq_length.as_deref());
        let ModelChangeArgs { query_instruction_for_retrieval, passage_instruction_for_retrieval, .. } = &args.changes;
        let line = prompt(line, "--query_instruction_for_retrieval", query_instruction_for_retrieval);
        prompt(line, "--passage_instruction_for_retrieval", passage_instruction_for_retrieval)
    }

    /// What is other than by default.
    fn machine(self, machine: &MachineArgs) -> Line {
        let [device, precision] = [machine.device.to_string(), machine.precision.to_string()];
        let other = |value: &str| (value != "auto").then_some(value.to_string());
        let threads = machine.threads.map(|n| n.to_string());
        let line = self
            .maybe_flag("--threads", threads.as_deref())
            .maybe_flag("--device", other(&device).as_deref())
            .maybe_flag("--precision", other(&precision).as_deref());
        if machine.allow_emulation { line.word("--allow_emulation") } else { line }
    }

    /// A flag whose value is there and not empty.
    fn maybe_flag(self, name: &str, value: Option<&str>) -> Line {
        match value {
            Some(value) if !value.is_empty() => self.flag(name, value),
            _ => self,
        }
    }

    fn maybe(self, name: &str, path: Option<&Path>) -> Line {
        match path {
            Some(path) => self.named(name, path),
            None => self,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rule_fits_small_and_large_data() {
        let small = Choices::of(200, 384, false, false);
        assert_eq!((small.dev, small.test, small.batch_size, small.epochs), (0.1, 0.2, 16, 4.0));
        assert_eq!((small.learning_rate, small.temperature, small.n_negatives), (3e-5, 0.05, 1));
        let large = Choices::of(200_000, 1024, false, false);
        assert_eq!((large.dev, large.test, large.batch_size, large.epochs), (0.005, 0.01, 64, 1.0));
        assert_eq!((large.learning_rate, large.temperature), (1e-5, 0.02));
        let labels = Choices::of(5_000, 768, true, true);
        assert_eq!((labels.test, labels.n_negatives, labels.temperature), (0.0, 0, 0.05));
    }
}

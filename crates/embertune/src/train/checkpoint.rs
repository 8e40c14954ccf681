//! What a checkpoint contains, and which run may go on from it.
//!
//! A checkpoint is a model folder, usable by itself, with four files more: `optimizer.safetensors`, the optimizer's moments;
//! `log.jsonl`, the log until there; `training_state.json`, the rest: the step, the sums behind the next line of the log, the
//! evaluations so far, and the [`Fingerprint`] of the run; and the list of [`checksums`] of all files. Order, negatives and dropout are
//! pure functions of (seed, epoch, row), so there is no state of a generator to keep. Where adapters are trained they are merged in the
//! model, and in `adapter` as they are.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use embertune_kernels::Ops;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use xxhash_rust::xxh3::Xxh3Default;

use crate::error::{Error, Result};
use crate::model::EmbeddingModel;
use crate::train::cadence::Strategy;
use crate::train::checksums;
use crate::train::dataset::TrainingSet;
use crate::train::record::{FileRecord, SoFar};
use crate::train::settings::TrainSettings;
use crate::train::trainer::Trainer;

/// The optimizer's moments, in a checkpoint.
pub const MOMENTS: &str = "optimizer.safetensors";
/// The log until there.
pub const LOG: &str = "log.jsonl";
/// The rest.
const STATE: &str = "training_state.json";
/// Version of these files.
const FORMAT: u32 = 2;

/// Settings that a resumed run may have otherwise: they change what is said and kept, not what is computed. Of the paths, the
/// content is compared instead; how ranks share a batch is in the joined settings. Every other setting has to be the same.
pub const MAY_DIFFER: [&str; 23] = [
    "model_name_or_path",
    "guide_model",
    "train_data",
    "more_train_data",
    "eval_data",
    "candidate_pool",
    "output_dir",
    "overwrite_output_dir",
    "logging_strategy",
    "logging_steps",
    "logging_first_step",
    "report_to",
    "logging_dir",
    "save_strategy",
    "save_steps",
    "save_total_limit",
    "resume_from_checkpoint",
    "negatives_cross_device",
    "shard_optimizer",
    "memory_budget",
    "find_batch_size",
    "vector_cache",
    "vector_cache_gb",
];

/// How a difference is told of a run that goes on.
const RESUMED: [&str; 2] = ["was", "is"];

/// Settings that are groups of flags; what is called `name` in one is the flag of the group's name.
const GROUPS: [&str; 2] = ["adaptation", "loss"];

/// The files that a run reads its rows and candidates from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Files {
    /// The file of rows.
    pub train_data: FileRecord,
    /// The other files of rows.
    pub more_train_data: Vec<FileRecord>,
    /// The file of held-out rows.
    pub eval_data: Option<FileRecord>,
    /// The file of candidates.
    pub candidate_pool: Option<FileRecord>,
}

/// What decides over the results of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Fingerprint {
    /// All of them; those of [`MAY_DIFFER`] for the reader.
    settings: TrainSettings,
    /// What it reads.
    pub files: Files,
    /// Hash of the base model, hexadecimal.
    base_model: String,
    /// Hash of the guide, where there is one.
    guide_model: Option<String>,
    /// Hash of the tokens of all texts and of the rows made of them, hexadecimal.
    tokens: String,
}

impl Fingerprint {
    /// The fingerprint of a run that has not begun: `model` is the base, `guide` the hash of the guide.
    ///
    /// # Errors
    /// Where the temporary file of the tokens can't be read.
    pub fn new<O: Ops>(
        model: &EmbeddingModel<O>,
        guide: Option<u128>,
        set: &TrainingSet,
        settings: &TrainSettings,
        files: Files,
    ) -> Result<Self> {
        let mut settings = settings.clone();
        // As it is in effect: what `logging_steps` stands in for may not change with it.
        settings.eval_steps = (settings.eval_strategy() == Strategy::Steps).then(|| settings.eval_steps());
        Ok(Fingerprint {
            settings,
            files,
            base_model: format!("{:032x}", model.hash()),
            guide_model: guide.map(|hash| format!("{hash:032x}")),
            tokens: hash_of(set)?,
        })
    }

    /// Whether `model` is the base of the run still.
    pub fn is_base<O: Ops>(&self, model: &EmbeddingModel<O>) -> bool {
        format!("{:032x}", model.hash()) == self.base_model
    }

    /// What differs in `now` although it has to be the same, in words: what `was` before and `is` now.
    pub fn differences(&self, now: &Fingerprint, [was_word, is_word]: [&str; 2]) -> Vec<String> {
        let mut found = Vec::new();
        let (before, after) = (flags(&self.settings), flags(&now.settings));
        for (name, value) in &after {
            let was = before.get(name).unwrap_or(&Value::Null);
            if was != value && !MAY_DIFFER.contains(&name.as_str()) {
                found.push(format!("`--{name}` {was_word} {} and {is_word} {}", shown(was), shown(value)));
            }
        }
        let content = |file: Option<&FileRecord>| file.map(|file| (file.size_bytes, file.xxh3_128.clone()));
        let (was, is) = (&self.files, &now.files);
        let more = was.more_train_data.iter().zip(&is.more_train_data);
        for (name, was, is) in [
            ("train_data", Some(&was.train_data), Some(&is.train_data)),
            ("eval_data", was.eval_data.as_ref(), is.eval_data.as_ref()),
            ("candidate_pool", was.candidate_pool.as_ref(), is.candidate_pool.as_ref()),
        ]
        .into_iter()
        .chain(more.map(|(was, is)| ("train_data", Some(was), Some(is))))
        {
            if content(was) != content(is) {
                let size =
                    |file: Option<&FileRecord>| file.map_or("none".into(), |f| format!("{} bytes", f.size_bytes));
                found.push(format!("the content of `--{name}` is another one ({}, now {})", size(was), size(is)));
            }
        }
        let (n_was, n_is) = (1 + was.more_train_data.len(), 1 + is.more_train_data.len());
        if n_was != n_is {
            found.push(format!("`--train_data` {was_word} {n_was} files and {is_word} {n_is}"));
        }
        match (&self.guide_model, &now.guide_model) {
            (Some(was), Some(is)) if was != is => {
                found.push("`--guide_model` is another model: its weights, configuration or tokenizer differ".into());
            }
            (was, is) if was.is_some() != is.is_some() => {
                let shown = |guide: &Option<String>| if guide.is_some() { "given" } else { "not given" };
                found.push(format!("`--guide_model` {was_word} {} and {is_word} {}", shown(was), shown(is)));
            }
            _ => {}
        }
        // Adapters are part of the model whose hash it is, and begin by these settings.
        let adapters =
            |settings: &TrainSettings| settings.adaptation.lora_r.map(|_| (settings.adaptation.clone(), settings.seed));
        let begins_alike = adapters(&self.settings) == adapters(&now.settings);
        if self.base_model != now.base_model && begins_alike {
            found.push("the base model is another one: its weights, configuration or tokenizer differ".into());
        } else if self.tokens != now.tokens && found.is_empty() {
            found.push("the same texts have other tokens".into());
        }
        found
    }
}

fn fields(settings: &TrainSettings) -> serde_json::Map<String, Value> {
    match serde_json::to_value(settings) {
        Ok(Value::Object(fields)) => fields,
        other => panic!("settings are an object of plain values: {other:?}"),
    }
}

/// Settings by the names of their flags: those in groups are on their own.
fn flags(settings: &TrainSettings) -> serde_json::Map<String, Value> {
    let flat = |(group, value): (String, Value)| match value {
        Value::Object(fields) if GROUPS.contains(&group.as_str()) => {
            let flag = |name: String| if name == "name" { group.clone() } else { name };
            fields.into_iter().map(|(name, value)| (flag(name), value)).collect::<Vec<_>>()
        }
        value => vec![(group, value)],
    };
    fields(settings).into_iter().flat_map(flat).collect()
}

fn shown(value: &Value) -> String {
    match value {
        Value::Null => "not given".into(),
        Value::String(text) => format!("`{text}`"),
        value => value.to_string(),
    }
}

fn hash_of(set: &TrainingSet) -> Result<String> {
    let mut hash = Xxh3Default::new();
    let mut add = |numbers: &[u32]| {
        hash.update(&(numbers.len() as u64).to_le_bytes());
        numbers.iter().for_each(|number| hash.update(&number.to_le_bytes()));
    };
    for block in set.texts.blocks() {
        for tokens in block? {
            add(&tokens.ids);
            add(&[tokens.prompt_len]);
        }
    }
    for row in set.rows.iter() {
        add(&[row.query]);
        add(row.positives);
        add(row.negatives);
    }
    Ok(format!("{:032x}", hash.digest128()))
}

/// `training_state.json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct State {
    format: u32,
    embertune: String,
    fingerprint: Fingerprint,
    /// The run until there; its steps are `counts.steps`.
    pub so_far: SoFar,
}

impl State {
    /// The state of the run `fingerprint` at this point.
    pub fn new(fingerprint: &Fingerprint, so_far: &SoFar) -> Self {
        State {
            format: FORMAT,
            embertune: env!("CARGO_PKG_VERSION").into(),
            fingerprint: fingerprint.clone(),
            so_far: so_far.clone(),
        }
    }

    /// Writes the files of a checkpoint that are not the model's into its folder, and makes sure that they have reached the disk. The file
    /// `moments` is there already, and moved into it.
    ///
    /// # Errors
    /// What the file system says.
    pub fn write<O: Ops>(&self, trainer: &Trainer<'_, O>, moments: &Path, log: &Path, folder: &Path) -> Result<()> {
        fs::rename(moments, folder.join(MOMENTS)).map_err(Error::io(moments, "move"))?;
        trainer.model().save_adapter(folder)?;
        let copy = folder.join(LOG);
        fs::copy(log, &copy).and_then(|_| File::open(&copy)?.sync_all()).map_err(Error::io(&copy, "write"))?;
        let path = folder.join(STATE);
        let write = || -> io::Result<()> {
            let mut file = File::create_new(&path)?;
            file.write_all(format!("{}\n", serde_json::to_string_pretty(self)?).as_bytes())?;
            file.sync_all()
        };
        write().map_err(Error::io(&path, "write"))?;
        checksums::write(folder)
    }

    /// Reads the state in the checkpoint `folder`.
    ///
    /// # Errors
    /// A folder that is no checkpoint, or one of another version.
    pub fn read(folder: &Path) -> Result<Self> {
        let refuse =
            |problem: String, hint: &str| Error::Model { path: folder.into(), problem, hint: Some(hint.into()) };
        let path = folder.join(STATE);
        let text = fs::read_to_string(&path).map_err(|error| {
            let problem = format!("is no checkpoint to resume from: `{STATE}` cannot be read: {error}");
            refuse(problem, "name a folder `checkpoint-<step>` of an interrupted run, or `last`")
        })?;
        let parsed: Value = serde_json::from_str(&text).unwrap_or_default();
        let format = parsed["format"].as_u64();
        if format != Some(FORMAT.into()) {
            let format = format.map_or("unknown".into(), |format| format.to_string());
            return Err(refuse(
                format!("the checkpoint's format is {format}; this version reads {FORMAT}"),
                "resume with the version of Embertune that wrote it",
            ));
        }
        // From the text, not from `parsed`: a number of 32 bits is read as it was written.
        serde_json::from_str(&text).map_err(|error| {
            refuse(format!("`{STATE}` is damaged: {error}"), "resume from an earlier checkpoint, by its path")
        })
    }

    /// Checks that the run `now` is the one that `folder` is a checkpoint of.
    ///
    /// # Errors
    /// It is another one; all that differs is named.
    pub fn check(&self, now: &Fingerprint, folder: &Path) -> Result<()> {
        let differences = self.fingerprint.differences(now, RESUMED);
        if differences.is_empty() {
            return Ok(());
        }
        Err(Error::Model {
            path: folder.into(),
            problem: format!("is a checkpoint of another run: {}", differences.join("; ")),
            hint: Some("resume with what the run began with, or begin a new run with another `--output_dir`".into()),
        })
    }

    /// What should be said before the run goes on.
    pub fn note(&self) -> Option<String> {
        let now = env!("CARGO_PKG_VERSION");
        (self.embertune != now).then(|| {
            format!(
                "the run began with Embertune {} and goes on with {now}: its last bits may differ from those of a run of one version",
                self.embertune
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::AdaptationSettings;
    use crate::train::loss_settings::LossSettings;

    fn file(content: &str) -> FileRecord {
        FileRecord { path: "x".into(), size_bytes: content.len() as u64, xxh3_128: content.into() }
    }

    fn fingerprint(settings: TrainSettings) -> Fingerprint {
        Fingerprint {
            settings,
            files: Files {
                train_data: file("rows"),
                more_train_data: Vec::new(),
                eval_data: None,
                candidate_pool: None,
            },
            base_model: "b".into(),
            guide_model: None,
            tokens: "t".into(),
        }
    }

    /// Every setting has another value here; a new one has to be added.
    fn all_otherwise() -> Value {
        let mut fields = fields(&TrainSettings::default());
        for (name, value) in &mut fields {
            *value = match (name.as_str(), &value) {
                ("precision", _) => "bf16".into(),
                ("optim", _) => "adafactor".into(),
                ("reduce_dtype", _) => "bf16".into(),
                ("columns", _) => "query=question".into(),
                ("adaptation", _) => {
                    let adaptation = AdaptationSettings { freeze_layers: 1, ..AdaptationSettings::default() };
                    serde_json::to_value(adaptation).unwrap()
                }
                ("lr_scheduler_type", _) => "cosine".into(),
                ("lr_scheduler_kwargs", _) => serde_json::json!({"power": 2.0}),
                ("merge_alpha", _) => "0.5".into(),
                ("vector_cache_gb", _) => 0.5.into(),
                ("memory_budget", _) => "2GB".into(),
                ("loss", _) => {
                    let loss = LossSettings { matryoshka_dims: vec![8], ..LossSettings::default() };
                    serde_json::to_value(loss).unwrap()
                }
                ("train_sampling_strategy", _) => "sequential".into(),
                ("more_train_data", _) => serde_json::json!(["other"]),
                ("dataset_weights", _) => serde_json::json!([2.0]),
                ("dataset", _) => serde_json::json!([{"loss": "cosent"}]),
                ("report_to", _) => "tensorboard".into(),
                ("batch_sampler", _) => "no_duplicates".into(),
                ("eval_strategy" | "logging_strategy" | "save_strategy", _) => "epoch".into(),
                ("metric_for_best_model", _) => "loss".into(),
                ("remine_every", _) => "epoch".into(),
                ("remine_preset", _) => "original".into(),
                ("resume_from_checkpoint", _) => serde_json::to_value(crate::train::output::Resume::Last).unwrap(),
                ("greater_is_better", _) => true.into(),
                ("eval_split" | "dropout", _) => 0.25.into(),
                (
                    "max_steps"
                    | "eval_steps"
                    | "remine_negatives"
                    | "early_stopping_patience"
                    | "save_total_limit"
                    | "max_seq_length",
                    _,
                ) => 7.into(),
                (_, Value::Bool(value)) => (!value).into(),
                (_, Value::Number(n)) if n.is_f64() => (n.as_f64().unwrap() + 0.125).into(),
                (_, Value::Number(n)) => (n.as_u64().unwrap() + 1).into(),
                _ => "other".into(),
            };
        }
        Value::Object(fields)
    }

    #[test]
    fn every_setting_but_those_listed_has_to_be_the_same() {
        let base = fingerprint(TrainSettings::default());
        let other = all_otherwise();
        let mut may_differ = Vec::new();
        for (name, value) in other.as_object().unwrap() {
            let mut fields = fields(&base.settings);
            fields[name] = value.clone();
            let now = fingerprint(serde_json::from_value(Value::Object(fields)).unwrap());
            assert_ne!(now.settings, base.settings, "{name}");
            match base.differences(&now, RESUMED).as_slice() {
                [] => may_differ.push(name.clone()),
                [one] => {
                    let flag = match name.as_str() {
                        "adaptation" => "freeze_layers",
                        "loss" => "matryoshka_dims",
                        name => name,
                    };
                    assert!(one.starts_with(&format!("`--{flag}` was ")), "{one}");
                }
                more => panic!("{more:?}"),
            }
        }
        // Of the group `loss`, and tested with the guide itself.
        let mut expected: Vec<_> = MAY_DIFFER.into_iter().filter(|name| *name != "guide_model").collect();
        expected.sort_unstable();
        may_differ.sort_unstable();
        assert_eq!(may_differ, expected);
    }

    #[test]
    fn all_that_differs_is_named() {
        let was = fingerprint(TrainSettings::default());
        let now = Fingerprint {
            files: Files { train_data: file("other rows"), eval_data: Some(file("held out")), ..was.files.clone() },
            base_model: "c".into(),
            guide_model: Some("g".into()),
            ..fingerprint(TrainSettings { seed: 43, learning_rate: 1e-5, ..TrainSettings::default() })
        };
        let text = was.differences(&now, RESUMED).join("\n");
        for expected in [
            "`--seed` was 42 and is 43",
            "`--learning_rate` was 0.00005 and is 0.00001",
            "`--train_data` is another one (4 bytes, now 10 bytes)",
            "`--eval_data` is another one (none, now 8 bytes)",
            "base model",
            "`--guide_model` was not given and is given",
        ] {
            assert!(text.contains(expected), "{expected}\n{text}");
        }
    }

    #[test]
    fn numbers_come_back_bit_for_bit() {
        let settings = TrainSettings {
            learning_rate: 0.1 + 0.2,
            temperature: f64::from_bits(0x3fb9_9999_9999_999b),
            dropout: Some(0.1),
            ..TrainSettings::default()
        };
        let mut state = State::new(&fingerprint(settings), &SoFar::default());
        state.so_far.losses.mean = 1.0 / 3.0 + 1e-17;
        let back: State = serde_json::from_str(&serde_json::to_string_pretty(&state).unwrap()).unwrap();
        assert_eq!(back.fingerprint, state.fingerprint);
        assert_eq!(back.so_far.losses.mean.to_bits(), state.so_far.losses.mean.to_bits());
        assert!(state.fingerprint.differences(&back.fingerprint, RESUMED).is_empty());
    }

    #[test]
    fn a_folder_that_is_no_checkpoint_or_of_another_version_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let error = State::read(folder.path()).unwrap_err();
        assert!(error.to_string().contains("is no checkpoint to resume from"), "{error}");
        for (text, problem) in [
            ("{\"format\": 1}", "format is 1; this version reads 2"),
            ("{", "format is unknown"),
            ("{\"format\": 2}", "damaged"),
        ] {
            fs::write(folder.path().join(STATE), text).unwrap();
            let error = State::read(folder.path()).unwrap_err();
            assert!(error.to_string().contains(problem) && error.hint().is_some(), "{error}");
        }
    }
}

//! `--config run.toml` or `run.json`: a file of flags, each a key with its value.
//!
//! The entries become arguments in front of those of the command line, and clap parses them all: so a file says what flags say, in
//! the same words and with the same errors. What the command line has itself is left out, and so is what is the default anyway. A table
//! is the JSON of its flag; a list of them, like `[[dataset]]`, gives the flag several times.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::{Path, PathBuf};

use clap::{Arg, ArgAction, Command};
use embertune::{Error, Result};
use serde_json::{Map, Value};

use super::refused;

/// The commands that take a file of flags.
pub const COMMANDS: [&str; 3] = ["train", "mine", "evaluate"];

/// Below this similarity, no flag is near to an unknown key.
const NEAR: f64 = 0.4;

/// The flag, for the commands that have it.
pub fn flag() -> Arg {
    Arg::new("config")
        .long("config")
        .value_name("FILE")
        .value_parser(clap::value_parser!(PathBuf))
        .help("Flags from a file, .toml or .json, with their names as keys; those of the command line come before them")
        .help_heading("Config")
        .display_order(0)
}

/// A command line with the entries of its file in it.
pub struct Expanded {
    /// All arguments.
    pub argv: Vec<OsString>,
    /// The file.
    path: PathBuf,
    /// The flags that are from it.
    names: Vec<String>,
}

impl Expanded {
    /// Where the flags that `message` speaks of come from, if that is the file.
    pub fn origin(&self, message: &str) -> Option<String> {
        let message = message.lines().next().unwrap_or_default();
        let words: Vec<_> = message.split(|c: char| !c.is_alphanumeric() && c != '_' && c != '-').collect();
        let from_file = |name: &&String| words.contains(&format!("--{name}").as_str());
        let named: Vec<_> = self.names.iter().filter(from_file).map(|name| format!("`{name}`")).collect();
        (!named.is_empty()).then(|| format!("{} is from {}", named.join(", "), self.path.display()))
    }
}

/// The command line with the entries of the file that it names. `argv` is in the spelling with underscores.
///
/// # Errors
/// A file that cannot be read or is no flat table; a key that is no flag of the command.
pub fn expand(argv: Vec<OsString>, definition: &Command) -> Result<Expanded> {
    let command = argv.get(1).and_then(|name| definition.find_subcommand(name));
    let command = command.filter(|command| command.get_arguments().any(|flag| flag.get_id() == "config"));
    let (Some(command), Some(path)) = (command, path(&argv)) else {
        return Ok(Expanded { argv, path: PathBuf::new(), names: Vec::new() });
    };
    let given: Vec<_> = argv.iter().filter_map(|argument| find(command, name_of(argument)?)).collect();
    let (mut names, mut arguments) = (Vec::new(), Vec::new());
    for (key, value) in read(&path)? {
        let name = key.replace('-', "_");
        let problem = |problem, hint| Error::Data { path: path.clone(), problem, hint };
        let flag = find(command, &name).filter(|flag| flag.get_id() != "config");
        if flag.is_none() && refused::reason(&name).is_none() {
            return Err(problem(format!("`{key}` is not known to `{}`", command.get_name()), nearest(command, &name)));
        }
        // As transformers takes it: an object where the flag's value is JSON.
        let is_json = flag.is_some_and(|flag| flag.get_value_names().is_some_and(|names| names[0] == "JSON"));
        let value = if is_json { objects_as_text(value) } else { value };
        let values = texts(&value).map_err(|why| problem(format!("`{key}` {why}"), None))?;
        let says_nothing = flag.is_some_and(|flag| given.contains(&flag) || is_default(flag, &values));
        if says_nothing || value.is_null() {
            continue;
        }
        match flag.map(Arg::get_action) {
            // A switch without a value.
            Some(ArgAction::SetTrue) if value == Value::Bool(true) => arguments.push(format!("--{name}").into()),
            Some(ArgAction::SetTrue) if value == Value::Bool(false) => continue,
            _ => arguments.extend(values.iter().map(|value| OsString::from(format!("--{name}={value}")))),
        }
        names.push(flag.and_then(Arg::get_long).unwrap_or(&name).to_string());
    }
    let mut all = argv[..2].to_vec();
    all.extend(arguments);
    all.extend_from_slice(&argv[2..]);
    Ok(Expanded { argv: all, path, names })
}

/// Objects, or a list of them, as strings of JSON.
fn objects_as_text(value: Value) -> Value {
    match value {
        Value::Object(_) => Value::String(value.to_string()),
        Value::Array(list) => list.into_iter().map(objects_as_text).collect(),
        value => value,
    }
}

/// The file that the command line names.
fn path(argv: &[OsString]) -> Option<PathBuf> {
    let mut arguments = argv.iter().skip(2).take_while(|argument| *argument != "--");
    while let Some(argument) = arguments.next() {
        if argument == "--config" {
            return arguments.next().map(PathBuf::from);
        }
        if let Some(path) = argument.to_str().and_then(|text| text.strip_prefix("--config=")) {
            return Some(path.into());
        }
    }
    None
}

fn name_of(argument: &OsStr) -> Option<&str> {
    argument.to_str()?.strip_prefix("--")?.split('=').next()
}

fn find<'a>(command: &'a Command, name: &str) -> Option<&'a Arg> {
    let is_called = |flag: &&Arg| {
        flag.get_long() == Some(name) || flag.get_all_aliases().is_some_and(|aliases| aliases.contains(&name))
    };
    command.get_arguments().find(is_called)
}

fn nearest(command: &Command, name: &str) -> Option<String> {
    let flags = command.get_arguments().filter_map(Arg::get_long);
    let scored = flags.map(|flag| (strsim::normalized_damerau_levenshtein(flag, name), flag));
    let (score, flag) = scored.max_by(|a, b| a.0.total_cmp(&b.0))?;
    Some(match score >= NEAR {
        true => format!("the nearest name is `{flag}`"),
        false => format!("`embertune {} --help` lists all names", command.get_name()),
    })
}

/// Whether a flag has these values without being given.
fn is_default(flag: &Arg, values: &[String]) -> bool {
    let defaults = flag.get_default_values().iter().map(|value| value.to_string_lossy());
    !flag.get_default_values().is_empty() && defaults.eq(values.iter().map(String::as_str))
}

fn read(path: &Path) -> Result<Map<String, Value>> {
    let text = fs::read_to_string(path).map_err(Error::io(path, "read"))?;
    let wrong = |line, problem| Error::Row { path: path.into(), line, problem, hint: None };
    let flat = "a file of flags is a flat table of names and values";
    match path.extension().and_then(OsStr::to_str) {
        Some("json") => match serde_json::from_str(&text) {
            Ok(Value::Object(entries)) => Ok(entries),
            Ok(_) => Err(wrong(1, format!("{flat}, and this is no object"))),
            Err(error) => Err(wrong(error.line(), error.to_string())),
        },
        Some("toml") => {
            let entries: Map<_, _> = toml::from_str(&text).map_err(|error| {
                let start = error.span().map_or(0, |span| span.start);
                wrong(1 + text[..start].matches('\n').count(), error.message().to_string())
            })?;
            // TOML has no null: it is what becomes of `nan` and `inf`.
            match entries.iter().find(|(_, value)| value.is_null()) {
                Some((key, _)) => Err(wrong(1, format!("`{key}` is not a finite number"))),
                None => Ok(entries),
            }
        }
        _ => Err(Error::Setting {
            problem: format!("`--config {}` is neither a .toml nor a .json file", path.display()),
            hint: Some(flat.into()),
        }),
    }
}

/// The values of an entry, as they would be on the command line.
fn texts(value: &Value) -> std::result::Result<Vec<String>, &'static str> {
    match value {
        Value::Null => Ok(Vec::new()),
        Value::Bool(value) => Ok(vec![value.to_string()]),
        Value::Number(value) => Ok(vec![value.to_string()]),
        Value::String(value) => Ok(vec![value.clone()]),
        Value::Array(list) => {
            let values = list.iter().map(|value| match value {
                Value::Array(_) | Value::Object(_) | Value::Null => Err("is a list of something else than values"),
                value => texts(value),
            });
            Ok(values.collect::<std::result::Result<Vec<_>, _>>()?.concat())
        }
        Value::Object(_) => Err("is a table; a file of flags is flat, with names and values alone"),
    }
}

#[cfg(test)]
mod tests {
    use clap::FromArgMatches;
    use embertune::train::config::to_toml;
    use embertune::train::{Steps, TrainSettings};
    use serde_json::json;

    use super::*;
    use crate::args::{Cli, Command as Given};

    const REQUIRED: &str = "model_name_or_path = \"m\"\ntrain_data = \"t.jsonl\"\noutput_dir = \"o\"\n";

    fn expanded(name: &str, file: &str, flags: &str) -> Result<Expanded> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        fs::write(&path, file).unwrap();
        let argv =
            ["embertune", "train", "--config", path.to_str().unwrap()].into_iter().chain(flags.split_whitespace());
        expand(argv.map(OsString::from).collect(), &Cli::definition())
    }

    fn settings_of(argv: Vec<OsString>) -> TrainSettings {
        let matches = Cli::definition().try_get_matches_from(refused::check(argv).unwrap()).unwrap();
        match Cli::from_arg_matches(&matches).unwrap().command {
            Given::Train(args) => args.settings().unwrap(),
            other => panic!("{other:?}"),
        }
    }

    fn parsed(name: &str, file: &str, flags: &str) -> TrainSettings {
        settings_of(expanded(name, file, flags).unwrap().argv)
    }

    #[test]
    fn a_file_says_what_flags_say() {
        let flags = "--model_name_or_path m --train_data t.jsonl --output_dir o --seed 7 --learning_rate 2e-5 --bf16 False \
                     --normalized False --allow_emulation --matryoshka_dims 8 4 --max_steps -1 --eval_split 0.1 \
                     --lr_scheduler_kwargs {\"num_cycles\":2}";
        let argv = ["embertune", "train"].into_iter().chain(flags.split_whitespace()).map(OsString::from).collect();
        let expected = settings_of(argv);
        let toml = "seed = 7\nlearning-rate = 2e-5\nbf16 = false\nnormalized = false\nallow_emulation = true\n\
                    matryoshka_dims = [8, 4]\nmax_steps = -1\neval_split = 0.1 # a tenth\n\
                    lr_scheduler_kwargs = { num_cycles = 2 }\n";
        assert_eq!(parsed("run.toml", &format!("{REQUIRED}{toml}"), ""), expected);
        let json = json!({
            "model_name_or_path": "m", "train_data": "t.jsonl", "output_dir": "o", "seed": 7, "learning_rate": "2e-5",
            "bf16": false, "normalized": "False", "allow_emulation": true, "matryoshka_dims": [8, 4], "max_steps": -1,
            "eval_split": 0.1, "lr_scheduler_kwargs": {"num_cycles": 2}, "eval_steps": null, "push_to_hub": false, "fsdp": null
        });
        assert_eq!(parsed("run.json", &json.to_string(), ""), expected);
    }

    #[test]
    fn the_command_line_comes_before_the_file_and_the_file_before_the_defaults() {
        let file = format!("{REQUIRED}seed = 7\nmatryoshka_dims = [8, 4]\nlogging_steps = 3\n");
        let settings = parsed("run.toml", &file, "--seed=8 --matryoshka_dims 2 --model_name n");
        assert_eq!((settings.seed, settings.logging_steps), (8, Steps::Number(3)));
        assert_eq!(settings.loss.matryoshka_dims, [2]);
        assert_eq!(settings.model_name_or_path, "n", "by its other name");
        assert_eq!(settings.save_steps, TrainSettings::default().save_steps);
    }

    #[test]
    fn tables_are_data_sets_with_settings_of_their_own() {
        let file = "model_name_or_path = 'm'\noutput_dir = 'o'\ntemperature = 0.03\n[[dataset]]\ntrain_data = 'a.jsonl'\n\
                    [[dataset]]\ntrain_data = 'b.jsonl'\nweight = 0.5\nloss = 'cosent'\ntrain-group-size = 1\n";
        let json = json!({
            "model_name_or_path": "m", "output_dir": "o", "temperature": 0.03, "dataset": [
                {"train_data": "a.jsonl"},
                {"train_data": "b.jsonl", "weight": 0.5, "loss": "cosent", "train_group_size": 1},
            ],
        });
        let settings = parsed("run.toml", file, "--temperature 0.04");
        assert_eq!(settings.train_files(), [Path::new("a.jsonl"), Path::new("b.jsonl")]);
        assert_eq!((settings.dataset_weights.as_slice(), settings.temperature), (&[1.0, 0.5][..], 0.04));
        assert_eq!(settings.of_set(0).train_group_size, settings.train_group_size);
        assert_eq!((settings.of_set(1).train_group_size, settings.of_set(1).temperature), (1, 0.04));
        assert_eq!(settings.of_set(1).loss.name.to_string(), "cosent");
        assert_eq!(parsed("run.json", &json.to_string(), "--temperature 0.04"), settings);
        assert_eq!(parsed("run.toml", &to_toml(&settings), ""), settings);

        let argv = expanded("run.toml", file, "--train_data c.jsonl").unwrap().argv;
        let error = Cli::definition().try_get_matches_from(argv).unwrap_err().to_string();
        assert!(error.contains("cannot be used with"), "{error}");
        let argv = expanded("run.toml", &file.replace("weight", "wait"), "").unwrap().argv;
        let error = Cli::definition().try_get_matches_from(argv).unwrap_err().to_string();
        assert!(error.contains("unknown field `wait`"), "{error}");
    }

    /// Some other value of the same type for each setting, found by trying.
    fn otherwise(fields: &Value, path: &[String]) -> TrainSettings {
        let pointer = format!("/{}", path.join("/"));
        let was = fields.pointer(&pointer).unwrap().clone();
        let tried = match &was {
            Value::Bool(value) => vec![json!(!value)],
            Value::Number(value) => {
                vec![json!(value.as_u64().map(|n| n + 1)), json!(value.as_f64().map(|x| x + 0.125))]
            }
            _ => [
                json!("mean"),
                json!("last"),
                json!([8]),
                json!(true),
                json!(7),
                json!(0.25),
                json!("epoch"),
                json!("cosine"),
                json!("bf16"),
                json!("2GB"),
                json!("loss"),
                json!("kl_div"),
                json!("joint"),
                json!("sequential"),
                json!("relative"),
                json!("euclidean"),
                json!("hard_negatives"),
                json!("no_duplicates"),
                json!("batch_sampler"),
                json!("tensorboard"),
                json!("adafactor"),
                json!("auto"),
                json!("original"),
                json!("query=q"),
                json!("other"),
                json!(["other"]),
                json!([{"loss": "cosent", "train_group_size": 2}]),
            ]
            .to_vec(),
        };
        let with = |value: &Value| {
            let mut fields = fields.clone();
            *fields.pointer_mut(&pointer).unwrap() = value.clone();
            serde_json::from_value::<TrainSettings>(fields).ok()
        };
        let base = serde_json::from_value(fields.clone()).unwrap();
        let found = tried.iter().find_map(|value| with(value).filter(|settings| *settings != base));
        found.unwrap_or_else(|| panic!("no other value of `{pointer}` is known to this test"))
    }

    #[test]
    fn the_settings_of_a_run_come_back_from_its_file_each_of_them() {
        let base = TrainSettings {
            model_name_or_path: "m".into(),
            train_data: "t.jsonl".into(),
            output_dir: "o".into(),
            ..TrainSettings::default()
        };
        let fields: Value = serde_json::from_str(&serde_json::to_string(&base).unwrap()).unwrap();
        let paths = fields.as_object().unwrap().iter().flat_map(|(name, value)| match value {
            Value::Object(group) => group.keys().map(|key| vec![name.clone(), key.clone()]).collect(),
            _ => vec![vec![name.clone()]],
        });
        for path in paths {
            let mut settings = otherwise(&fields, &path);
            if path[0] == "vector_cache_gb" {
                // Not allowed alone.
                settings.vector_cache = Some("v".into());
            }
            let back = parsed("run.toml", &to_toml(&settings), "");
            if ["overwrite_output_dir", "resume_from_checkpoint", "find_batch_size"].contains(&&*path[0]) {
                assert_eq!(back, base, "{path:?} is of one start of a run");
            } else {
                assert_eq!(back, settings, "{path:?}");
            }
        }
    }

    #[test]
    fn what_is_wrong_in_a_file_is_named() {
        for (name, file, problem, hint) in [
            ("run.toml", "learning_rat = 1", "`learning_rat` is not known to `train`", "`learning_rate`"),
            ("run.toml", "zzz = 1", "`zzz` is not known", "--help"),
            ("run.toml", "seed = 1\n\nseed = 2", "run.toml:3: ", ""),
            ("run.toml", "[loss]\nmargin = 1", "`loss` is a table", ""),
            ("run.toml", "learning_rate = nan", "`learning_rate` is not a finite number", ""),
            ("run.toml", "config = 'other.toml'", "`config` is not known", ""),
            ("run.json", "{\"seed\": 1,\n}", "run.json:2: ", ""),
            ("run.json", "[1]", "this is no object", ""),
            ("run.json", "{\"matryoshka_dims\": [[1]]}", "`matryoshka_dims` is a list of something else", ""),
            ("run.yaml", "", "neither a .toml nor a .json file", "flat table"),
        ] {
            let error = expanded(name, file, "").err().unwrap();
            assert!(error.to_string().contains(problem), "{error}");
            assert!(error.hint().unwrap_or_default().contains(hint), "{:?}", error.hint());
        }
    }

    #[test]
    fn errors_say_which_flags_are_from_the_file() {
        let file = expanded("run.toml", "dropout = 2\nfsdp = \"full_shard\"\n", "--seed 1").unwrap();
        let origin = file.origin("`--dropout 2` is not allowed, nor --seed").unwrap();
        assert!(origin.starts_with("`dropout` is from ") && origin.ends_with("run.toml"), "{origin}");
        let refused = refused::check(file.argv.clone()).unwrap_err().to_string();
        assert!(file.origin(&refused).unwrap().starts_with("`fsdp` is from "));
        assert_eq!(file.origin("the file is missing\n--dropout"), None);
    }
}

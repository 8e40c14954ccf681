//! The command that repeats a run, from its settings: every setting has the name of its flag.

use serde_json::{Map, Value, json};

use crate::train::TrainSettings;
use crate::train::mixture::tables;

/// Settings of how a run was carried out, not of what came out of it.
const NOT_OF_THE_RUN: [&str; 2] = ["overwrite_output_dir", "resume_from_checkpoint"];

/// The settings that differ from the defaults, by the names of their flags, with values as the flags take them.
pub fn changed_settings(settings: &Map<String, Value>) -> Vec<(String, String)> {
    let defaults = json!(TrainSettings::default());
    let mut changed = Vec::new();
    for (name, value) in settings.iter().filter(|(name, _)| !NOT_OF_THE_RUN.contains(&name.as_str())) {
        collect(name, value, &defaults[name], &mut changed);
    }
    changed
}

fn collect(name: &str, value: &Value, default: &Value, changed: &mut Vec<(String, String)>) {
    if value == default {
        return;
    }
    match value {
        // A flag of its own, whose value is JSON.
        Value::Object(_) if name == "lr_scheduler_kwargs" => changed.push((name.into(), value.to_string())),
        Value::Object(inner) => {
            for (inner_name, value) in inner {
                // What is called `name` within is what the whole is called on the command line.
                let flag = if inner_name == "name" { name } else { inner_name };
                collect(flag, value, &default[inner_name], changed);
            }
        }
        Value::Null => {}
        Value::Bool(flag) => changed.push((name.into(), if *flag { "True".into() } else { "False".into() })),
        Value::String(text) => changed.push((name.into(), text.clone())),
        // Two settings, one flag, which may be repeated.
        Value::Array(files) if name == "more_train_data" => {
            let files = files.iter().filter_map(Value::as_str);
            changed.extend(files.map(|file| ("train_data".into(), file.into())));
        }
        Value::Array(sets) if name == "dataset" => {
            let own = (1..).zip(sets).filter(|(_, own)| own.as_object().is_some_and(|own| !own.is_empty()));
            changed.extend(own.map(|(i, own)| (format!("dataset {i}"), own.to_string())));
        }
        Value::Array(items) => {
            changed.push((name.into(), items.iter().map(Value::to_string).collect::<Vec<_>>().join(",")));
        }
        number => changed.push((name.into(), number.to_string())),
    }
}

/// The command line of `embertune train` with these settings, as a shell reads it, one flag on each line.
pub fn command(settings: &Map<String, Value>) -> String {
    let tables = tables(settings);
    // A table has its file and weight in it.
    let is_in_table = |name: &str| {
        name.starts_with("dataset ") || !tables.is_empty() && ["train_data", "dataset_weights"].contains(&name)
    };
    let flags = changed_settings(settings).into_iter().filter(|(name, _)| !is_in_table(name));
    let sets = tables.iter().map(|table| ("dataset".into(), Value::Object(table.clone()).to_string()));
    let mut text = String::from("embertune train");
    for (name, value) in flags.chain(sets) {
        text += &format!(" \\\n    --{name} {}", quoted(&value));
    }
    text
}

/// A word as a POSIX shell reads it.
pub fn quoted(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "_-./,:=+@%".contains(c);
    if !word.is_empty() && word.chars().all(is_plain) {
        return word.into();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_has_what_differs_from_the_defaults_and_a_shell_can_read_it() {
        let mut settings = TrainSettings {
            model_name_or_path: "a model".into(),
            train_data: "a.jsonl".into(),
            more_train_data: vec!["b.jsonl".into()],
            learning_rate: 2e-5,
            lr_scheduler_kwargs: "{\"num_cycles\": 2}".parse().unwrap(),
            load_best_model_at_end: true,
            overwrite_output_dir: true,
            query_instruction_for_retrieval: Some("it's: ".into()),
            ..TrainSettings::default()
        };
        settings.loss.name = crate::train::LossName::CoSent;
        settings.loss.matryoshka_dims = vec![256, 64];
        let Value::Object(settings) = json!(settings) else { panic!("settings are an object") };
        let lines: Vec<_> = command(&settings).lines().map(|l| l.trim().trim_end_matches(" \\").to_string()).collect();
        assert_eq!(
            lines,
            [
                "embertune train",
                "--model_name_or_path 'a model'",
                "--train_data a.jsonl",
                "--train_data b.jsonl",
                r"--query_instruction_for_retrieval 'it'\''s: '",
                "--loss cosent",
                "--matryoshka_dims 256,64",
                "--learning_rate 0.00002",
                r#"--lr_scheduler_kwargs '{"num_cycles":2.0}'"#,
                "--load_best_model_at_end True",
            ]
        );
    }

    #[test]
    fn data_sets_with_settings_of_their_own_are_tables_in_the_command() {
        let settings = TrainSettings {
            train_data: "a.jsonl".into(),
            more_train_data: vec!["b.jsonl".into()],
            dataset_weights: vec![1.0, 0.5],
            dataset: vec![serde_json::from_str("{}").unwrap(), serde_json::from_str(r#"{"loss": "cosent"}"#).unwrap()],
            ..TrainSettings::default()
        };
        let Value::Object(settings) = json!(settings) else { panic!("settings are an object") };
        let command = command(&settings);
        let (first, second) =
            (r#"--dataset '{"train_data":"a.jsonl","weight":1.0}'"#, r#""weight":0.5,"loss":"cosent"}'"#);
        assert!(command.contains(first) && command.ends_with(second), "{command}");
        assert_eq!(command.matches("--").count(), 2, "{command}");
        let shown = changed_settings(&settings);
        assert!(shown.contains(&("dataset 2".into(), r#"{"loss":"cosent"}"#.into())), "{shown:?}");
    }
}

//! `run.toml`: the settings of a run as a file of flags, so that `embertune train --config run.toml` repeats the run.

use serde_json::Value;

use crate::train::mixture::tables;
use crate::train::settings::TrainSettings;

/// The settings that are of a single start of a run, or that others have been resolved by.
const OF_ONE_START: [&str; 3] = ["overwrite_output_dir", "resume_from_checkpoint", "find_batch_size"];

/// All `settings` with values, by the names of their flags, as a flat table in TOML; data sets with settings of their own as tables behind
/// it. Those that say how a run was started are left out.
pub fn to_toml(settings: &TrainSettings) -> String {
    let mut text = format!(
        "# The settings of a run of Embertune {}. `embertune train --config FILE --output_dir FOLDER` repeats it.\n",
        env!("CARGO_PKG_VERSION")
    );
    let mut value = value_of(settings);
    let tables = value.as_object().map(tables).unwrap_or_default();
    let mut take = |name| value.as_object_mut().and_then(|fields| fields.shift_remove(name));
    take("dataset");
    let more = take("more_train_data");
    if !tables.is_empty() {
        take("train_data");
        take("dataset_weights");
    } else if let Some(Value::Array(more)) = more
        && !more.is_empty()
    {
        // Two settings, one flag.
        value["train_data"] = std::iter::once(value["train_data"].clone()).chain(more).collect();
    }
    add_entries(&mut text, None, &value);
    for table in tables {
        text += "\n[[dataset]]\n";
        add_entries(&mut text, None, &Value::Object(table));
    }
    text
}

/// By way of the text, so that a number of 32 bits keeps its shortest form.
fn value_of(settings: &TrainSettings) -> Value {
    let value = serde_json::to_string(settings).and_then(|text| serde_json::from_str(&text));
    value.unwrap_or_else(|error| panic!("settings are an object of plain values: {error}"))
}

/// Settings that are in a group of their own are flags like the others; the group's `name` is the flag of its own name.
fn add_entries(text: &mut String, group: Option<&str>, entries: &Value) {
    for (name, value) in entries.as_object().into_iter().flatten() {
        let name = group.filter(|_| name == "name").unwrap_or(name);
        let is_empty =
            value.is_null() || value.as_array().is_some_and(Vec::is_empty) || (name == "columns" && value == "");
        if is_empty || OF_ONE_START.contains(&name) {
            continue;
        }
        match value {
            // A flag of its own, whose value is JSON.
            Value::Object(fields) if name == "lr_scheduler_kwargs" => {
                if !fields.is_empty() {
                    *text += &format!("{name} = {}\n", Value::from(value.to_string()));
                }
            }
            Value::Object(_) => add_entries(text, Some(name), value),
            // Strings, numbers, booleans and lists of them are written in TOML as in JSON, but for this one character.
            _ => *text += &format!("{name} = {}\n", value.to_string().replace('\u{7f}', "\\u007f")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::loss_settings::{LossName, LossSettings};

    #[test]
    fn every_setting_with_a_value_is_an_entry_by_its_flag() {
        let loss = LossSettings { name: LossName::KlDiv, matryoshka_dims: vec![8, 4], ..LossSettings::default() };
        let settings = TrainSettings {
            model_name_or_path: "a \"b\"\n\u{7f}".into(),
            dropout: Some(0.1),
            lr_scheduler_kwargs: "{\"num_cycles\": 2}".parse().unwrap(),
            learning_rate: 2e-5,
            find_batch_size: true,
            loss,
            ..TrainSettings::default()
        };
        let text = to_toml(&settings);
        for line in [
            r#"model_name_or_path = "a \"b\"\n\u007f""#,
            "dropout = 0.1",
            "learning_rate = 0.00002",
            "loss = \"kl_div\"",
            "matryoshka_dims = [8,4]",
            "normalized = true",
            "num_train_epochs = 3.0",
            r#"lr_scheduler_kwargs = "{\"num_cycles\":2.0}""#,
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
        for absent in ["find_batch_size", "resume_from_checkpoint", "eval_data", "name =", "matryoshka_weights"] {
            assert!(!text.lines().any(|line| line.starts_with(absent)), "{absent}\n{text}");
        }
    }
}

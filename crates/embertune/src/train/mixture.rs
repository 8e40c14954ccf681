//! Several data sets in one run: what each of them has otherwise than the run, as a `[[dataset]]` table of `--config` says it.
//!
//! A batch is of one data set, so what is said here of a set is what its batches are made and judged by. What is of the model or of the
//! optimizer (lengths of batches, rates, Matryoshka, a guide) is the run's.

use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::data::Columns;
use crate::error::{Error, Result};
use crate::loss::{Directions, Distance, HardnessMode};
use crate::train::loss_settings::{LossName, LossSettings};
use crate::train::settings::TrainSettings;

/// What a data set has otherwise than the run, by the names of the flags; `None` is what the run has.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct OwnSettings {
    /// Columns that have other names than ours.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub columns: Option<Columns>,
    /// Text in front of every query, while it is trained on; the saved model has the run's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub query_instruction_for_retrieval: Option<String>,
    /// Text in front of every passage.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub passage_instruction_for_retrieval: Option<String>,
    /// Longest query in tokens.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub query_max_len: Option<usize>,
    /// Longest passage in tokens.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub passage_max_len: Option<usize>,
    /// Passages of a query in a batch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub train_group_size: Option<usize>,
    /// Use the passages of the other queries in a batch as negatives.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub use_inbatch_neg: Option<bool>,
    /// What similarities are divided by.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub temperature: Option<f64>,
    /// The loss. Another one than the run's begins with its own defaults.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub loss: Option<LossName>,
    /// What InfoNCE compares.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub directions: Option<Directions>,
    /// Which negatives weigh more the closer they are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hardness_mode: Option<HardnessMode>,
    /// How much more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hardness_strength: Option<f64>,
    /// Passages more similar to the query than its positive by more than this are no negatives.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mask_margin: Option<f64>,
    /// Margin of triplet and of the contrastive losses.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub margin: Option<f64>,
    /// Distance of triplet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub triplet_distance: Option<Distance>,
}

impl OwnSettings {
    /// The settings of a run that has this data set alone: those of `run`, but for what is said here.
    pub fn over(&self, run: &TrainSettings) -> TrainSettings {
        let mut settings = TrainSettings { dataset: Vec::new(), ..run.clone() };
        put(&mut settings.columns, &self.columns);
        put_some(&mut settings.query_instruction_for_retrieval, &self.query_instruction_for_retrieval);
        put_some(&mut settings.passage_instruction_for_retrieval, &self.passage_instruction_for_retrieval);
        put(&mut settings.query_max_len, &self.query_max_len);
        put(&mut settings.passage_max_len, &self.passage_max_len);
        put(&mut settings.train_group_size, &self.train_group_size);
        put(&mut settings.use_inbatch_neg, &self.use_inbatch_neg);
        let loss = &mut settings.loss;
        if let Some(name) = self.loss.filter(|name| *name != loss.name) {
            *loss = of_another(name, loss);
        }
        if !loss.name.has_temperature() {
            // The run's is for the others.
            settings.temperature = TrainSettings::default().temperature;
        }
        put(&mut settings.temperature, &self.temperature);
        put(&mut loss.directions, &self.directions);
        put_some(&mut loss.hardness_mode, &self.hardness_mode);
        put(&mut loss.hardness_strength, &self.hardness_strength);
        put_some(&mut loss.mask_margin, &self.mask_margin);
        put_some(&mut loss.margin, &self.margin);
        put(&mut loss.triplet_distance, &self.triplet_distance);
        settings
    }
}

/// The settings of the loss `name` in a run that has another one: its defaults, with what is of the vectors or of the guide.
fn of_another(name: LossName, run: &LossSettings) -> LossSettings {
    let LossSettings { matryoshka_dims, matryoshka_weights, .. } = run.clone();
    let plain = LossSettings { name, matryoshka_dims, matryoshka_weights, ..LossSettings::default() };
    match name.compares_over_batch() {
        true => LossSettings {
            guide_model: run.guide_model.clone(),
            guide_margin: run.guide_margin,
            guide_margin_strategy: run.guide_margin_strategy,
            ..plain
        },
        false => plain,
    }
}

fn put<T: Clone>(setting: &mut T, own: &Option<T>) {
    own.iter().for_each(|own| setting.clone_from(own));
}

fn put_some<T: Clone>(setting: &mut Option<T>, own: &Option<T>) {
    if own.is_some() {
        setting.clone_from(own);
    }
}

/// A data set with what is its own, as `--dataset` takes it: a JSON object of `train_data`, `weight` and [`OwnSettings`].
#[derive(Clone, Debug, PartialEq)]
pub struct DataSet {
    /// Its rows.
    pub train_data: PathBuf,
    /// How often an epoch takes its rows; `None` is once.
    pub weight: Option<f64>,
    /// The rest.
    pub own: OwnSettings,
}

impl FromStr for DataSet {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let refuse = |problem: String| Error::Setting {
            problem: format!("the data set {text}: {problem}"),
            hint: Some(
                "a table of `train_data`, `weight`, and flags that are its own, like `loss = \"cosent\"`".into(),
            ),
        };
        let fields: Map<String, Value> = serde_json::from_str(text).map_err(|error| refuse(error.to_string()))?;
        let mut fields: Map<_, _> = fields.into_iter().map(|(name, value)| (name.replace('-', "_"), value)).collect();
        let train_data = match fields.shift_remove("train_data") {
            Some(Value::String(path)) => path.into(),
            Some(other) => return Err(refuse(format!("`train_data` is {other}, and has to be a path"))),
            None => return Err(refuse("has no `train_data`".into())),
        };
        let weight = match fields.shift_remove("weight") {
            None => None,
            Some(weight) => {
                Some(weight.as_f64().ok_or_else(|| refuse(format!("`weight` is {weight}, and has to be a number")))?)
            }
        };
        let own = serde_json::from_value(Value::Object(fields)).map_err(|error| refuse(error.to_string()))?;
        Ok(DataSet { train_data, weight, own })
    }
}

/// The data sets of a run in which some have settings of their own, as `--dataset` takes them; none where all are as the run says.
/// `settings` are [`TrainSettings`] as run.json has them.
pub fn tables(settings: &Map<String, Value>) -> Vec<Map<String, Value>> {
    let list = |name: &str| settings.get(name).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let files = settings.get("train_data").into_iter().chain(list("more_train_data"));
    let table = |(i, (path, own)): (usize, (&Value, &Value))| {
        let mut table = Map::from_iter([("train_data".into(), path.clone())]);
        table.extend(list("dataset_weights").get(i).map(|weight| ("weight".into(), weight.clone())));
        table.extend(own.as_object().cloned().unwrap_or_default());
        table
    };
    files.zip(list("dataset")).enumerate().map(table).collect()
}

/// Checks the settings of each data set as those of a run of its own, and that they can be in one run.
///
/// # Errors
/// Those of [`TrainSettings::validate`], with the data set; one learnt temperature for different ones.
pub fn check(settings: &TrainSettings) -> Result<()> {
    let (n_tables, files) = (settings.dataset.len(), settings.train_files());
    if n_tables > 0 && n_tables != files.len() {
        return Err(Error::Setting {
            problem: format!("there are {n_tables} data sets with settings of their own, and {} files", files.len()),
            hint: Some("name each file in a table of its own".into()),
        });
    }
    for (i, (own, path)) in settings.dataset.iter().zip(files).enumerate() {
        settings.of_set(i).validate().map_err(|error| match error {
            Error::Setting { problem, hint } => {
                Error::Setting { problem: format!("data set {}: {problem}", path.display()), hint }
            }
            other => other,
        })?;
        let has_its_own = own.temperature.is_some() || own.loss.is_some_and(|name| name != settings.loss.name);
        if settings.loss.temperature_learning_rate.is_some() && has_its_own {
            return Err(Error::Setting {
                problem: format!(
                    "data set {} has a `temperature` or `loss` of its own, and `--temperature_learning_rate` learns a single temperature",
                    path.display()
                ),
                hint: Some("leave one of the two out".into()),
            });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::loss::Loss;

    fn run() -> TrainSettings {
        let loss = LossSettings {
            mask_margin: Some(0.1),
            guide_model: Some("g".into()),
            matryoshka_dims: vec![8],
            ..LossSettings::default()
        };
        TrainSettings { train_data: "a".into(), more_train_data: vec!["b".into()], loss, ..TrainSettings::default() }
    }

    fn own(text: &str) -> OwnSettings {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn a_data_set_has_what_the_run_has_but_for_its_own() {
        let run = run();
        assert_eq!(OwnSettings::default().over(&run), run);
        let settings = own(
            r#"{"query_instruction_for_retrieval": "q: ", "passage_instruction_for_retrieval": "p: ", "query_max_len": 5,
                "passage_max_len": 6, "train_group_size": 2, "use_inbatch_neg": false, "temperature": 0.5, "columns": "query=a",
                "mask_margin": 0.2, "hardness_mode": "hard_negatives", "hardness_strength": 3.0, "directions": "one_way"}"#,
        )
        .over(&run);
        let prompts = [settings.query_instruction_for_retrieval, settings.passage_instruction_for_retrieval];
        assert_eq!(prompts, [Some("q: ".to_owned()), Some("p: ".to_owned())]);
        assert_eq!((settings.query_max_len, settings.passage_max_len, settings.train_group_size), (5, 6, 2));
        assert_eq!((settings.use_inbatch_neg, settings.temperature), (false, 0.5));
        assert_eq!(settings.columns, "query=a".parse().unwrap());
        assert_eq!((settings.loss.mask_margin, settings.loss.hardness_strength), (Some(0.2), 3.0));
        assert_eq!(settings.loss.guide_model, run.loss.guide_model);
    }

    #[test]
    fn another_loss_begins_with_its_defaults_and_keeps_what_is_of_the_vectors() {
        let cosent = own(r#"{"loss": "cosent"}"#).over(&run());
        assert_eq!((cosent.loss.mask_margin, cosent.loss.guide_model.clone()), (None, None));
        assert_eq!(cosent.loss.matryoshka_dims, [8]);
        cosent.validate().unwrap();
        let distilled = own(r#"{"loss": "kl_div"}"#).over(&run());
        assert_eq!((distilled.loss.mask_margin, distilled.loss.guide_model.as_deref()), (None, Some("g")));
        let triplet = own(r#"{"loss": "triplet", "triplet_distance": "euclidean", "margin": 2.0}"#).over(&run());
        let expected = Loss::Triplet { distance: Distance::Euclidean, margin: 2.0 };
        assert_eq!(format!("{:?}", triplet.objective().loss), format!("{expected:?}"));
    }

    #[test]
    fn tables_come_back_as_they_were() {
        let set = DataSet { train_data: "b c.jsonl".into(), weight: Some(0.5), own: own(r#"{"loss": "cosent"}"#) };
        let settings = TrainSettings {
            dataset: vec![OwnSettings::default(), set.own.clone()],
            more_train_data: vec![set.train_data.clone()],
            dataset_weights: vec![1.0, 0.5],
            ..run()
        };
        let tables = |settings: &TrainSettings| tables(serde_json::json!(settings).as_object().unwrap());
        let found = tables(&settings);
        assert_eq!(Value::from(found[0].clone()).to_string(), r#"{"train_data":"a","weight":1.0}"#);
        assert_eq!(Value::from(found[1].clone()).to_string().parse::<DataSet>().unwrap(), set);
        assert!(tables(&run()).is_empty());
    }

    #[test]
    fn what_a_table_may_not_say_is_refused() {
        for (text, problem) in [
            (r#"{"weight": 1}"#, "has no `train_data`"),
            (r#"{"train_data": ["a"]}"#, "`train_data` is [\"a\"]"),
            (r#"{"train_data": "a", "weight": "1"}"#, "`weight` is \"1\""),
            (r#"{"train_data": "a", "learning_rate": 1}"#, "unknown field `learning_rate`, expected one of `columns`"),
            (r#"{"train_data": "a", "loss": "cosine"}"#, "unknown variant `cosine`"),
            ("[1]", "expected a map"),
        ] {
            let error = text.parse::<DataSet>().unwrap_err();
            assert!(error.to_string().contains(problem) && error.hint().is_some(), "{error}");
        }
        let with = |text: &str| TrainSettings { dataset: vec![OwnSettings::default(), own(text)], ..run() };
        with(r#"{"loss": "cosent"}"#).validate().unwrap();
        // The run's temperature is for those of its data sets that have one.
        TrainSettings { temperature: 0.1, ..with(r#"{"loss": "triplet"}"#) }.validate().unwrap();
        let learnt = |settings: TrainSettings| {
            let loss = LossSettings { temperature_learning_rate: Some(0.1), ..settings.loss };
            TrainSettings { loss, ..settings }
        };
        learnt(with(r#"{"train_group_size": 2}"#)).validate().unwrap();
        for (settings, problem) in [
            (with(r#"{"temperature": 0.0}"#), "data set b: `--temperature 0`"),
            (
                with(r#"{"loss": "triplet", "temperature": 0.5}"#),
                "data set b: `--temperature 0.5` has no effect on `--loss triplet`",
            ),
            (with(r#"{"margin": 0.5}"#), "data set b: `--margin` has no effect on `--loss infonce`"),
            (with(r#"{"train_group_size": 1, "use_inbatch_neg": false}"#), "data set b: `--train_group_size 1`"),
            (learnt(with(r#"{"temperature": 0.1}"#)), "learns a single temperature"),
            (TrainSettings { more_train_data: vec![], ..with("{}") }, "there are 2 data sets"),
        ] {
            let error = settings.validate().unwrap_err();
            assert!(
                error.to_string().contains(problem) && error.hint().is_some() != problem.ends_with("0`"),
                "{error}"
            );
        }
    }
}

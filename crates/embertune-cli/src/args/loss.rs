//! The flags of `embertune train` that say what is minimised.

use clap::builder::PossibleValuesParser;
use clap::{ArgAction, Args};
use embertune::loss::{Directions, Distance, HardnessMode};
use embertune::train::loss_settings::MarginStrategy;
use embertune::train::{LossName, LossSettings};
use embertune::{Error, Result};
use serde::de::DeserializeOwned;

use super::boolean;

/// The loss and what goes with it.
#[derive(Args, Debug)]
#[command(rename_all = "snake_case", next_help_heading = "Loss")]
pub struct LossArgs {
    /// What is minimised [default: infonce]
    ///
    /// Rows with right answers: infonce, triplet. With a teacher's scores as well (`pos_scores`, `neg_scores`): kl_div, m3_kd_loss,
    /// distill_kl, margin_mse. Pairs with a `score`: cosent, cosine_mse. Pairs with the label 0 or 1: contrastive,
    /// online_contrastive. Which for what: docs/guide/losses.md.
    #[arg(long, value_name = "NAME", value_parser = PossibleValuesParser::new(LossName::ALL.map(|(_, name)| name)), hide_possible_values = true)]
    pub loss: Option<String>,

    /// FlagEmbedding's spelling of --loss: True stands for what --kd_loss_type says
    #[arg(long, value_parser = boolean::parse, num_args = 0..=1, default_missing_value = "true", default_value_t = false,
          value_name = "True|False", action = ArgAction::Set)]
    pub knowledge_distillation: bool,

    /// The loss of --knowledge_distillation
    #[arg(long, value_name = "NAME", value_parser = ["kl_div", "m3_kd_loss"], default_value = "kl_div")]
    pub kd_loss_type: String,

    /// What infonce compares: one_way (queries with passages), two_way (and positives with queries), joint (and queries with
    /// queries, passages with passages, in one softmax) or gist (and queries with queries, positives with positives)
    #[arg(long, value_name = "NAME", value_parser = ["one_way", "two_way", "joint", "gist"], default_value = "one_way", hide_possible_values = true)]
    pub directions: String,

    /// Let close negatives weigh more in infonce: in_batch_negatives, hard_negatives or all_negatives
    #[arg(long, value_name = "WHICH", value_parser = ["in_batch_negatives", "hard_negatives", "all_negatives"], hide_possible_values = true)]
    pub hardness_mode: Option<String>,

    /// How much more; 5 to 9 are in use
    #[arg(long, value_name = "X", default_value_t = 0.0)]
    pub hardness_strength: f64,

    /// Learn the temperature, from --temperature on, with this learning rate of its logarithm; 1e-3, say [default: fixed]
    #[arg(long, value_name = "LR")]
    pub temperature_learning_rate: Option<f64>,

    /// Passages that are closer to the query than its positive by more than this are no negatives; 0.1, say [default: no mask]
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    pub mask_margin: Option<f64>,

    /// Folder or hub name of a second model: passages that it finds closer to the query than the positive are no negatives (GIST)
    #[arg(long, value_name = "FOLDER|NAME")]
    pub guide_model: Option<String>,

    /// How far below the positive's a negative's similarity has to be for the guide
    #[arg(long, value_name = "X", default_value_t = 0.0, allow_negative_numbers = true)]
    pub guide_margin: f64,

    /// How that is meant: absolute, or relative to the positive's similarity
    #[arg(long, value_name = "NAME", value_parser = ["absolute", "relative"], default_value = "absolute", hide_possible_values = true)]
    pub guide_margin_strategy: String,

    /// Margin of triplet, contrastive and online_contrastive [default: 0.3 for triplet, 5 with Euclidean distances, else 0.5]
    #[arg(long, value_name = "X")]
    pub margin: Option<f64>,

    /// Distance of triplet: cosine or euclidean
    #[arg(long, value_name = "NAME", value_parser = ["cosine", "euclidean"], default_value = "cosine", hide_possible_values = true)]
    pub triplet_distance: String,

    /// Apply the loss to the first N numbers of the vectors, for each N, so that vectors can be cut later: 384,192,96
    #[arg(long, value_name = "N", value_delimiter = ',', num_args = 1..)]
    pub matryoshka_dims: Vec<usize>,

    /// Weights of these losses, as many [default: 1 each]
    #[arg(long, value_name = "X", value_delimiter = ',', num_args = 1..)]
    pub matryoshka_weights: Vec<f64>,

    /// FlagEmbedding's spelling of --matryoshka_dims: True takes the mean over --mrl_dims
    #[arg(long, value_parser = boolean::parse, num_args = 0..=1, default_missing_value = "true", default_value_t = false,
          value_name = "True|False", action = ArgAction::Set, conflicts_with_all = ["matryoshka_dims", "matryoshka_weights"])]
    pub use_mrl: bool,

    /// The dimensions of --use_mrl
    #[arg(long, value_name = "N", value_delimiter = ',', num_args = 1..)]
    pub mrl_dims: Vec<usize>,
}

impl LossArgs {
    /// The library's settings.
    ///
    /// # Errors
    /// Two spellings of the same thing that do not agree.
    pub fn settings(&self) -> Result<LossSettings> {
        let (matryoshka_dims, matryoshka_weights) = self.matryoshka()?;
        Ok(LossSettings {
            name: self.name()?,
            directions: named::<Directions>(&self.directions)?,
            hardness_mode: self.hardness_mode.as_deref().map(named::<HardnessMode>).transpose()?,
            hardness_strength: self.hardness_strength,
            temperature_learning_rate: self.temperature_learning_rate,
            mask_margin: self.mask_margin,
            guide_model: self.guide_model.clone(),
            guide_margin: self.guide_margin,
            guide_margin_strategy: named::<MarginStrategy>(&self.guide_margin_strategy)?,
            margin: self.margin,
            triplet_distance: named::<Distance>(&self.triplet_distance)?,
            matryoshka_dims,
            matryoshka_weights,
        })
    }

    fn name(&self) -> Result<LossName> {
        let distillation = self.knowledge_distillation.then_some(&self.kd_loss_type);
        match (&self.loss, distillation) {
            (Some(loss), Some(other)) if loss != other => refuse(
                format!(
                    "`--knowledge_distillation True` stands for `--loss {other}`, but `--loss {loss}` is there as well"
                ),
                "leave one of the two out",
            ),
            (loss, distillation) => loss.as_ref().or(distillation).map_or(Ok(LossName::default()), |name| name.parse()),
        }
    }

    fn matryoshka(&self) -> Result<(Vec<usize>, Vec<f64>)> {
        match (self.use_mrl, self.mrl_dims.len()) {
            (false, 0) => Ok((self.matryoshka_dims.clone(), self.matryoshka_weights.clone())),
            (true, 0) => refuse("`--use_mrl True` needs `--mrl_dims`".into(), "for example `--mrl_dims 384 192 96`"),
            (false, _) => refuse(
                "`--mrl_dims` has no effect without `--use_mrl True`".into(),
                "pass both, or `--matryoshka_dims`",
            ),
            (true, n) => Ok((self.mrl_dims.clone(), vec![1.0 / n as f64; n])),
        }
    }
}

/// A choice by the name that run.json has for it; clap has let through those names alone.
fn named<T: DeserializeOwned>(name: &str) -> Result<T> {
    serde_json::from_value(name.into())
        .map_err(|error| Error::Setting { problem: format!("`{name}` is not known: {error}"), hint: None })
}

fn refuse<T>(problem: String, hint: &str) -> Result<T> {
    Err(Error::Setting { problem, hint: Some(hint.into()) })
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Alone {
        #[command(flatten)]
        loss: LossArgs,
    }

    fn parse(flags: &str) -> Result<LossSettings> {
        Alone::try_parse_from(std::iter::once("train").chain(flags.split_whitespace())).unwrap().loss.settings()
    }

    #[test]
    fn defaults_are_those_of_the_library() {
        assert_eq!(parse("").unwrap(), LossSettings::default());
    }

    #[test]
    fn every_choice_is_known_to_the_library() {
        for (loss, name) in LossName::ALL {
            assert_eq!(parse(&format!("--loss {name}")).unwrap().name, loss);
        }
        for flags in [
            "directions one_way two_way joint gist",
            "hardness_mode in_batch_negatives hard_negatives all_negatives",
            "guide_margin_strategy absolute relative",
            "triplet_distance cosine euclidean",
        ] {
            let (flag, names) = flags.split_once(' ').unwrap();
            names.split(' ').for_each(|name| drop(parse(&format!("--{flag} {name}")).unwrap()));
        }
    }

    #[test]
    fn flags_of_flag_embedding_are_other_spellings() {
        assert_eq!(parse("--knowledge_distillation True").unwrap(), parse("--loss kl_div").unwrap());
        let m3 = parse("--knowledge_distillation --kd_loss_type m3_kd_loss").unwrap();
        assert_eq!(m3, parse("--loss m3_kd_loss").unwrap());
        // Not distilled, whatever the type: as in FlagEmbedding.
        assert_eq!(parse("--knowledge_distillation False --kd_loss_type m3_kd_loss").unwrap(), LossSettings::default());
        let mrl = parse("--use_mrl True --mrl_dims 8 4").unwrap();
        assert_eq!(mrl, parse("--matryoshka_dims 8,4 --matryoshka_weights 0.5,0.5").unwrap());
        for (flags, problem) in [
            ("--loss infonce --knowledge_distillation True", "stands for `--loss kl_div`"),
            ("--use_mrl True", "needs `--mrl_dims`"),
            ("--mrl_dims 8", "without `--use_mrl True`"),
        ] {
            let error = parse(flags).unwrap_err();
            assert!(error.to_string().contains(problem), "{error}");
        }
    }
}

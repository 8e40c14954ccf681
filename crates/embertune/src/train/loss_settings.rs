//! Which loss a run minimises, by the names of the flags, and which settings go together.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::loss::{Directions, Distance, Hardness, HardnessMode, InfoNce, Loss, Margin, Negatives};

/// A loss by its name (`--loss`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LossName {
    /// Each query against its positive, its negatives and the passages of the batch.
    #[default]
    #[serde(rename = "infonce")]
    InfoNce,
    /// FlagEmbedding's distillation: the teacher's softmax over the group, plus InfoNCE.
    KlDiv,
    /// BGE M3's distillation.
    M3KdLoss,
    /// sentence-transformers' distillation: the divergence within the group.
    DistillKl,
    /// The teacher's margins.
    MarginMse,
    /// Positive closer than negative by a margin.
    Triplet,
    /// Order of scored pairs.
    #[serde(rename = "cosent")]
    CoSent,
    /// Cosine equal to the score.
    CosineMse,
    /// Labelled pairs.
    Contrastive,
    /// Labelled pairs, the hard ones.
    OnlineContrastive,
}

/// What a loss reads beside the texts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reads {
    /// Nothing.
    Texts,
    /// A teacher's score of every passage.
    TeacherScores,
    /// A score of every pair, any number.
    PairScores,
    /// A score of every pair, or 1 for positives and 0 for negatives.
    PairScoresOrLabels,
    /// 1 or 0 for every pair, or 1 for positives and 0 for negatives.
    Labels,
}

impl LossName {
    /// All of them, with their names.
    pub const ALL: [(LossName, &str); 10] = [
        (LossName::InfoNce, "infonce"),
        (LossName::KlDiv, "kl_div"),
        (LossName::M3KdLoss, "m3_kd_loss"),
        (LossName::DistillKl, "distill_kl"),
        (LossName::MarginMse, "margin_mse"),
        (LossName::Triplet, "triplet"),
        (LossName::CoSent, "cosent"),
        (LossName::CosineMse, "cosine_mse"),
        (LossName::Contrastive, "contrastive"),
        (LossName::OnlineContrastive, "online_contrastive"),
    ];

    /// What it reads beside the texts.
    pub fn reads(self) -> Reads {
        match self {
            LossName::InfoNce | LossName::Triplet => Reads::Texts,
            LossName::KlDiv | LossName::M3KdLoss | LossName::DistillKl | LossName::MarginMse => Reads::TeacherScores,
            LossName::CosineMse => Reads::PairScores,
            LossName::CoSent => Reads::PairScoresOrLabels,
            LossName::Contrastive | LossName::OnlineContrastive => Reads::Labels,
        }
    }

    /// Whether it compares queries with the passages of other queries.
    pub fn compares_over_batch(self) -> bool {
        matches!(self, LossName::InfoNce | LossName::KlDiv | LossName::M3KdLoss)
    }

    /// Whether it learns from pairs one by one, so that a query needs no negative.
    pub fn takes_pairs(self) -> bool {
        !matches!(self.reads(), Reads::Texts | Reads::TeacherScores)
    }

    /// Whether it divides by `temperature`.
    pub fn has_temperature(self) -> bool {
        self.compares_over_batch() || matches!(self, LossName::DistillKl | LossName::CoSent)
    }

    fn has_margin(self) -> bool {
        matches!(self, LossName::Triplet | LossName::Contrastive | LossName::OnlineContrastive)
    }
}

impl fmt::Display for LossName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = LossName::ALL.iter().find(|(loss, _)| loss == self).map_or("", |(_, name)| name);
        f.write_str(name)
    }
}

impl FromStr for LossName {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        let known = LossName::ALL.iter().find(|(_, known)| *known == name);
        known.map(|(loss, _)| *loss).ok_or_else(|| Error::Setting {
            problem: format!("`--loss {name}` is not known"),
            hint: Some(format!("one of {}", LossName::ALL.map(|(_, name)| name).join(", "))),
        })
    }
}

/// How `guide_margin` is meant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MarginStrategy {
    /// A difference of similarities.
    #[default]
    Absolute,
    /// A share of the positive's similarity.
    Relative,
}

/// The settings of the loss, beside `temperature`, `use_inbatch_neg` and `train_group_size`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LossSettings {
    /// Which loss. Default infonce.
    pub name: LossName,
    /// What InfoNCE compares beside queries with passages. Default one_way.
    pub directions: Directions,
    /// Which negatives of InfoNCE weigh more the closer they are. Default none.
    pub hardness_mode: Option<HardnessMode>,
    /// How much more. Default 0, which has to be changed where there is a mode.
    pub hardness_strength: f64,
    /// Learn the temperature, from `temperature` on, at this peak learning rate of its logarithm. Default: it is fixed.
    pub temperature_learning_rate: Option<f64>,
    /// Passages more similar to the query than its positive by more than this are no negatives. Default: no bound.
    pub mask_margin: Option<f64>,
    /// Folder or Hugging Face name of a model that says which passages are no negatives. Default none.
    pub guide_model: Option<String>,
    /// How far below the positive's similarity a negative's has to be, by the guide. Default 0.
    pub guide_margin: f64,
    /// How that is meant. Default absolute.
    pub guide_margin_strategy: MarginStrategy,
    /// Margin of triplet (default 0.3 for cosine distances, 5 for Euclidean ones) and of the contrastive losses (default 0.5).
    pub margin: Option<f64>,
    /// Distance of triplet. Default cosine.
    pub triplet_distance: Distance,
    /// Numbers of a vector to which the loss is applied as well; empty for whole vectors alone. Default empty.
    pub matryoshka_dims: Vec<usize>,
    /// Weights of these; empty for 1 each, as in sentence-transformers. FlagEmbedding takes the mean. Default empty.
    pub matryoshka_weights: Vec<f64>,
}

impl LossSettings {
    /// The loss. `use_inbatch_neg` and `temperature` are those in use.
    pub fn loss(&self, use_inbatch_neg: bool, temperature: f64) -> Loss {
        let over_batch = || InfoNce {
            negatives: self.negatives(use_inbatch_neg),
            directions: self.directions,
            temperature,
            hardness: self.hardness_mode.map(|mode| Hardness { mode, strength: self.hardness_strength }),
            mask_margin: self.mask_margin,
            guide_margin: match self.guide_margin_strategy {
                MarginStrategy::Absolute => Margin::Absolute(self.guide_margin),
                MarginStrategy::Relative => Margin::Relative(self.guide_margin),
            },
        };
        let margin = self.margin.unwrap_or(match (self.name, self.triplet_distance) {
            (LossName::Triplet, Distance::Cosine) => 0.3,
            (LossName::Triplet, Distance::Euclidean) => 5.0,
            _ => 0.5,
        });
        match self.name {
            LossName::InfoNce => Loss::InfoNce(over_batch()),
            LossName::KlDiv => Loss::KlDiv(over_batch()),
            LossName::M3KdLoss => Loss::M3Kd(over_batch()),
            LossName::DistillKl => Loss::DistillKl { temperature },
            LossName::MarginMse => Loss::MarginMse,
            LossName::Triplet => Loss::Triplet { distance: self.triplet_distance, margin },
            LossName::CoSent => Loss::CoSent { temperature },
            LossName::CosineMse => Loss::CosineMse,
            LossName::Contrastive => Loss::Contrastive { margin },
            LossName::OnlineContrastive => Loss::OnlineContrastive { margin },
        }
    }

    /// Which passages of a batch are negatives of a query.
    pub fn negatives(&self, use_inbatch_neg: bool) -> Negatives {
        match use_inbatch_neg && self.name.compares_over_batch() {
            true => Negatives::InBatch,
            false => Negatives::OwnGroup,
        }
    }

    /// Whether the loss is one of cosines, whatever the length of the model's vectors.
    pub fn takes_cosines(&self) -> bool {
        self.name.takes_pairs() || self.name == LossName::Triplet && self.triplet_distance == Distance::Cosine
    }

    /// Checks that the settings have an effect together, and one that is meant.
    ///
    /// # Errors
    /// A setting of another loss, or a value outside its range.
    pub fn validate(&self, use_inbatch_neg: bool) -> Result<()> {
        let name = self.name;
        let is_info_nce = name == LossName::InfoNce;
        let over_batch = name.compares_over_batch();
        // (the flag, whether it was set, whether it has an effect, which losses it belongs to)
        let belongings: [(&str, bool, bool, &str); 8] = [
            ("directions", self.directions != Directions::OneWay, is_info_nce, "infonce"),
            ("hardness_mode", self.hardness_mode.is_some(), is_info_nce, "infonce"),
            (
                "temperature_learning_rate",
                self.temperature_learning_rate.is_some(),
                name.has_temperature() && name != LossName::DistillKl,
                "infonce, kl_div, m3_kd_loss, cosent",
            ),
            ("mask_margin", self.mask_margin.is_some(), over_batch, "infonce, kl_div, m3_kd_loss"),
            ("guide_model", self.guide_model.is_some(), over_batch, "infonce, kl_div, m3_kd_loss"),
            ("margin", self.margin.is_some(), name.has_margin(), "triplet, contrastive, online_contrastive"),
            ("triplet_distance", self.triplet_distance != Distance::Cosine, name == LossName::Triplet, "triplet"),
            ("guide_margin", self.guide_margin != 0.0, self.guide_model.is_some(), "a run with `--guide_model`"),
        ];
        if let Some((flag, _, _, of)) = belongings.iter().find(|(_, is_set, has_effect, _)| *is_set && !has_effect) {
            return refuse(
                format!("`--{flag}` has no effect on `--loss {name}`: it belongs to {of}"),
                "leave it out, or choose another loss",
            );
        }
        if self.directions != Directions::OneWay && !use_inbatch_neg {
            return refuse(
                format!(
                    "`--directions {}` compares texts of different queries, and `--use_inbatch_neg False` does not",
                    self.directions
                ),
                "leave one of the two out",
            );
        }
        if self.hardness_mode.is_some() != (self.hardness_strength > 0.0) {
            return refuse(
                format!(
                    "`--hardness_strength {}` has to be above 0 with `--hardness_mode`, and 0 without",
                    self.hardness_strength
                ),
                "pass both, for example `--hardness_mode hard_negatives --hardness_strength 5`",
            );
        }
        self.validate_values()
    }

    fn validate_values(&self) -> Result<()> {
        let text = |x: Option<f64>| x.map_or(String::new(), |x| x.to_string());
        let is = |x: Option<f64>, allowed: fn(f64) -> bool| x.is_none_or(allowed);
        let list = |list: Vec<String>| list.join(",");
        let (dims, weights) = (&self.matryoshka_dims, &self.matryoshka_weights);
        let is_distinct = (1..dims.len()).all(|i| !dims[..i].contains(&dims[i]));
        let rules: [(&str, String, bool, &str); 7] = [
            ("hardness_strength", self.hardness_strength.to_string(), self.hardness_strength.is_finite(), "a number"),
            (
                "temperature_learning_rate",
                text(self.temperature_learning_rate),
                is(self.temperature_learning_rate, |x| x > 0.0 && x.is_finite()),
                "above 0",
            ),
            ("mask_margin", text(self.mask_margin), is(self.mask_margin, f64::is_finite), "a number"),
            ("guide_margin", self.guide_margin.to_string(), self.guide_margin.is_finite(), "a number"),
            ("margin", text(self.margin), is(self.margin, |x| x > 0.0 && x.is_finite()), "above 0"),
            (
                "matryoshka_dims",
                list(dims.iter().map(usize::to_string).collect()),
                !dims.contains(&0) && is_distinct,
                "different numbers above 0",
            ),
            (
                "matryoshka_weights",
                list(weights.iter().map(f64::to_string).collect()),
                (weights.is_empty() || weights.len() == dims.len())
                    && weights.iter().all(|&w| w > 0.0 && w.is_finite()),
                "numbers above 0, as many as `--matryoshka_dims` has",
            ),
        ];
        match rules.iter().find(|(_, _, is_allowed, _)| !is_allowed) {
            Some((flag, value, _, allowed)) => Err(Error::Setting {
                problem: format!("`--{flag} {value}` is not allowed: it has to be {allowed}"),
                hint: None,
            }),
            None => Ok(()),
        }
    }

    /// Checks the widths against a model's.
    ///
    /// # Errors
    /// A width that is greater.
    pub fn validate_width(&self, dim: usize) -> Result<()> {
        match self.matryoshka_dims.iter().find(|&&k| k > dim) {
            Some(k) => refuse(
                format!("`--matryoshka_dims` has {k}, but the model's vectors have {dim} numbers"),
                &format!("numbers up to {dim}, which is one of them as a rule"),
            ),
            None => Ok(()),
        }
    }

    /// What should be said about settings that are allowed and may surprise, one line each.
    pub fn notes(&self, normalized: bool, dims_of_model: usize) -> Vec<String> {
        let mut notes = Vec::new();
        if self.name == LossName::MarginMse && normalized {
            notes.push(
                "`--loss margin_mse` compares differences of dot products with the teacher's: between vectors of length 1 they are \
                 within -2..2; `--normalized False` leaves the model's vectors as long as they are"
                    .into(),
            );
        }
        if !self.matryoshka_dims.is_empty() && !self.matryoshka_dims.contains(&dims_of_model) {
            notes.push(format!(
                "`--matryoshka_dims` leaves out the whole vector of {dims_of_model} numbers: it is trained by its beginning alone"
            ));
        }
        notes
    }
}

fn refuse(problem: String, hint: &str) -> Result<()> {
    Err(Error::Setting { problem, hint: Some(hint.into()) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(settings: &LossSettings) -> String {
        settings.validate(true).unwrap_err().to_string()
    }

    #[test]
    fn every_loss_is_found_by_its_name_and_allowed_with_defaults() {
        for (name, text) in LossName::ALL {
            assert_eq!((text.parse::<LossName>().unwrap(), name.to_string().as_str()), (name, text));
            assert_eq!(serde_json::to_value(name).unwrap(), text);
            LossSettings { name, ..LossSettings::default() }.validate(true).unwrap();
        }
        assert!("tripel".parse::<LossName>().unwrap_err().hint().unwrap().contains("triplet"));
    }

    #[test]
    fn settings_of_other_losses_are_refused_with_the_reason() {
        let d = LossSettings::default;
        let (pairs, hard) = (LossName::CoSent, Some(HardnessMode::AllNegatives));
        for (settings, expected) in [
            (
                LossSettings { name: pairs, directions: Directions::Joint, ..d() },
                "`--directions` has no effect on `--loss cosent`",
            ),
            (LossSettings { name: pairs, mask_margin: Some(0.1), ..d() }, "`--mask_margin` has no effect"),
            (LossSettings { name: pairs, guide_model: Some("m".into()), ..d() }, "`--guide_model` has no effect"),
            (
                LossSettings { name: LossName::DistillKl, temperature_learning_rate: Some(0.1), ..d() },
                "`--temperature_learning_rate`",
            ),
            (LossSettings { margin: Some(0.1), ..d() }, "it belongs to triplet, contrastive"),
            (LossSettings { triplet_distance: Distance::Euclidean, ..d() }, "it belongs to triplet"),
            (LossSettings { guide_margin: 0.1, ..d() }, "it belongs to a run with `--guide_model`"),
            (LossSettings { hardness_mode: hard, ..d() }, "`--hardness_strength 0` has to be above 0"),
            (LossSettings { hardness_strength: 5.0, ..d() }, "`--hardness_strength 5`"),
        ] {
            assert!(problem(&settings).contains(expected), "{settings:?}: {}", problem(&settings));
        }
        let two_way = LossSettings { directions: Directions::TwoWay, ..d() };
        two_way.validate(true).unwrap();
        assert!(two_way.validate(false).unwrap_err().to_string().contains("`--use_inbatch_neg False`"));
    }

    #[test]
    fn values_out_of_range_are_named() {
        let d = LossSettings::default;
        for (settings, expected) in [
            (LossSettings { temperature_learning_rate: Some(0.0), ..d() }, "--temperature_learning_rate 0"),
            (LossSettings { mask_margin: Some(f64::NAN), ..d() }, "--mask_margin NaN"),
            (LossSettings { name: LossName::Triplet, margin: Some(-1.0), ..d() }, "--margin -1"),
            (LossSettings { matryoshka_dims: vec![8, 8], ..d() }, "--matryoshka_dims 8,8"),
            (
                LossSettings { matryoshka_dims: vec![8, 4], matryoshka_weights: vec![1.0], ..d() },
                "--matryoshka_weights 1",
            ),
        ] {
            assert!(problem(&settings).contains(expected), "{settings:?}: {}", problem(&settings));
        }
    }
}

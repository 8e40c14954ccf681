//! Rounds: negatives that are mined again while a run goes on, with the weights of the moment (`--remine_every`).
//!
//! A round is what `embertune mine` would do with the model as it is: the same rules, the same lists. It replaces the negatives of all
//! rows, and is written to `mined-<step>.jsonl` in the folder of the run before the next step begins. A run that is resumed reads the
//! negatives of its last round from there, since the weights that they were mined with are gone. As in ANCE (Xiong et al. 2021), but
//! in turns with the training.

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use embertune_kernels::Ops;
use serde::{Deserialize, Serialize};

use crate::comm::Communicator;
use crate::data::{Columns, RowsOf, StoredExamples, StoredPool, store_examples, store_pool};
use crate::error::{Error, Result};
use crate::mine::output::write_examples;
use crate::mine::{MineSettings, VectorSource, passages_of, search_and_choose};
use crate::model::EmbeddingModel;
use crate::progress::{Progress, Quiet, Silent};
use crate::train::cadence::{Cadence, Strategy};
use crate::train::dataset::TrainingSet;
use crate::train::loss_settings::Reads;
use crate::train::mixture::OwnSettings;
use crate::train::sampler::BatchSampler;
use crate::train::settings::TrainSettings;

/// When negatives are mined again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum RemineEvery {
    /// After every epoch but the last.
    Epoch,
    /// After every so many steps.
    Steps(usize),
}

impl RemineEvery {
    /// After which steps a round is due, in epochs of `steps_per_epoch`.
    pub fn cadence(self, steps_per_epoch: usize) -> Cadence {
        match self {
            RemineEvery::Epoch => Cadence::new(Strategy::Epoch, 0, steps_per_epoch),
            RemineEvery::Steps(steps) => Cadence::new(Strategy::Steps, steps, 0),
        }
    }
}

/// The step after which the last round came before step `step` was done; a round that is due after it is still to come.
pub fn round_before(step: usize, rounds: Cadence) -> Option<usize> {
    (1..step).rev().find(|&earlier| rounds.is_due(earlier))
}

impl FromStr for RemineEvery {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        match text.parse() {
            Ok(steps) if steps > 0 => Ok(RemineEvery::Steps(steps)),
            _ if text == "epoch" => Ok(RemineEvery::Epoch),
            _ => Err("expected epoch, or a number of steps from 1".into()),
        }
    }
}

impl fmt::Display for RemineEvery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RemineEvery::Epoch => f.write_str("epoch"),
            RemineEvery::Steps(steps) => write!(f, "{steps}"),
        }
    }
}

impl From<RemineEvery> for String {
    fn from(every: RemineEvery) -> String {
        every.to_string()
    }
}

impl TryFrom<String> for RemineEvery {
    type Error = String;

    fn try_from(text: String) -> std::result::Result<Self, String> {
        text.parse()
    }
}

/// Checks the settings of rounds.
///
/// # Errors
/// Settings without rounds; a loss that reads scores which new negatives do not have; batches that would change in the middle of an
/// epoch.
pub fn check_settings(settings: &TrainSettings) -> Result<()> {
    let refuse = |problem: String, hint: &str| Err(Error::Setting { problem, hint: Some(hint.into()) });
    let Some(every) = settings.remine_every else {
        let defaults = TrainSettings::default();
        if settings.remine_preset != defaults.remine_preset || settings.remine_negatives.is_some() {
            return refuse(
                "`--remine_preset` and `--remine_negatives` have no effect without `--remine_every`".into(),
                "pass `--remine_every epoch`, or leave them out",
            );
        }
        return Ok(());
    };
    if settings.loss.name.reads() != Reads::Texts {
        return refuse(
            format!(
                "`--remine_every {every}` with `--loss {}`: new negatives have no scores to learn from",
                settings.loss.name
            ),
            "choose a loss that reads texts alone, such as infonce",
        );
    }
    if settings.loss.guide_model.is_some() {
        return refuse(
            format!(
                "`--remine_every {every}` with `--guide_model`: the guide embeds its texts once, before the training"
            ),
            "choose one of the two; the preset nv-retriever leaves out likely right answers, too",
        );
    }
    if settings.dataset.iter().any(|own| *own != OwnSettings::default()) {
        return refuse(
            format!(
                "`--remine_every {every}` with data sets that have settings of their own: rounds have one rule and one prompt"
            ),
            "leave one of the two out",
        );
    }
    if settings.train_group_size == 1 {
        return refuse(
            format!("`--remine_every {every}` with `--train_group_size 1`: no negative would be used"),
            "pass `--train_group_size 2` or more",
        );
    }
    if settings.adaptation.cache_frozen_layers {
        return refuse(
            format!(
                "`--remine_every {every}` with `--cache_frozen_layers`: the new texts of each round would need memory of their own"
            ),
            "leave `--cache_frozen_layers` out",
        );
    }
    if settings.batch_sampler == BatchSampler::NoDuplicates && every != RemineEvery::Epoch {
        return refuse(
            format!(
                "`--remine_every {every}` with `--batch_sampler no_duplicates`: the batches of an epoch depend on its negatives"
            ),
            "pass `--remine_every epoch`",
        );
    }
    if settings.remine_negatives == Some(0) {
        return refuse(
            "`--remine_negatives 0`: at least 1 is needed".into(),
            "leave the flag out for the preset's number",
        );
    }
    mine_settings(settings).check()
}

fn mine_settings(settings: &TrainSettings) -> MineSettings {
    let preset = settings.remine_preset.settings();
    let n_negatives = settings.remine_negatives.unwrap_or(preset.n_negatives);
    MineSettings { n_negatives, scores: false, seed: settings.seed, ..preset }
}

/// What rounds need: the rows as texts, and the candidates. Both are outside of memory, unless they are few.
pub struct Rounds {
    rows: StoredExamples,
    pool: StoredPool,
    settings: MineSettings,
}

/// What a round changed.
#[derive(Clone, Debug)]
pub struct Round {
    /// The new negatives of each row; those of its file, where the rules leave none.
    pub negatives: Vec<Vec<String>>,
    /// Rows that keep those of their file.
    pub n_kept: usize,
    /// Share of the negatives that their row did not have before.
    pub share_new: f64,
}

impl Rounds {
    /// Takes the rows of all data sets in their order, and reads the candidates: those of `candidate_pool`, or else all positives and
    /// negatives of the rows. `None` where the settings want no rounds.
    ///
    /// # Errors
    /// Candidates that cannot be read; rows of which none has negatives, since a run begins with those that were mined before.
    pub fn new(rows: StoredExamples, settings: &TrainSettings, progress: &dyn Progress) -> Result<Option<Self>> {
        let Some(every) = settings.remine_every else { return Ok(None) };
        let with_negatives = rows.rows().find(|row| !row.as_ref().is_ok_and(|row| row.negatives.is_empty()));
        if with_negatives.transpose()?.is_none() {
            return Err(Error::Data {
                path: settings.train_data.clone(),
                problem: format!("no row has negatives, and `--remine_every {every}` mines them again"),
                hint: Some("mine the first ones with `embertune mine`".into()),
            });
        }
        let pool = match &settings.candidate_pool {
            Some(path) => store_pool(path, &settings.columns, progress)?,
            None => passages_of(&rows)?,
        };
        Ok(Some(Rounds { rows, pool, settings: mine_settings(settings) }))
    }

    /// Number of candidates.
    pub fn n_candidates(&self) -> usize {
        self.pool.len()
    }

    /// Mines with `model`, which is the same on all `ranks`. `set` is what its rows train on until now. Nothing of it is said to `progress`.
    ///
    /// # Errors
    /// Those of mining; [`Error::Stopped`] where `progress` wants it to end.
    pub fn mine<O: Ops>(
        &self,
        model: &EmbeddingModel<O>,
        set: &TrainingSet,
        ranks: &dyn Communicator,
        progress: &dyn Progress,
    ) -> Result<Round> {
        let source = VectorSource::Model(model).among(ranks);
        let quiet = Quiet(progress);
        let chosen = search_and_choose(source, &self.rows, &self.pool, None, &self.settings, &quiet)?;
        let mut round = Round { negatives: Vec::with_capacity(self.rows.n_rows()), n_kept: 0, share_new: 0.0 };
        let (mut n_new, mut n_all) = (0, 0);
        for (i, row) in self.rows.rows().enumerate() {
            let row = row?;
            let mut negatives = self.pool.read(chosen.rows.get(i).negatives.iter().copied())?;
            negatives.retain(|text| !set.is_known(i, text));
            if negatives.is_empty() {
                round.n_kept += 1;
                negatives.clone_from(&row.negatives);
            }
            n_all += negatives.len();
            n_new += negatives.iter().filter(|text| !set.has_negative(i, text)).count();
            round.negatives.push(negatives);
        }
        round.share_new = n_new as f64 / n_all.max(1) as f64;
        Ok(round)
    }

    /// Writes the rows with the negatives of a round, whole or not at all: rows for `train`, like those that `mine` writes.
    ///
    /// # Errors
    /// Where the file can't be written.
    pub fn write(&self, round: &Round, path: &Path) -> Result<()> {
        write_examples(path, &self.rows, &round.negatives)
    }

    /// The negatives of a round that was written.
    ///
    /// # Errors
    /// Where the file can't be read, or has other rows.
    pub fn read(&self, path: &Path) -> Result<Vec<Vec<String>>> {
        let refuse = |problem: String| Error::Data {
            path: path.into(),
            problem,
            hint: Some("resume from a checkpoint of before this round, or begin anew".into()),
        };
        if !path.exists() {
            return Err(refuse("the negatives that were mined before the checkpoint are missing".into()));
        }
        let read = store_examples(path, &Columns::default(), &Silent)?;
        let mut negatives = Vec::with_capacity(read.n_rows());
        let mut are_same = read.n_rows() == self.rows.n_rows();
        for (read, own) in read.rows().zip(self.rows.rows()) {
            let read = read?.into_owned();
            are_same &= read.query == own?.query;
            negatives.push(read.negatives);
        }
        match are_same {
            true => Ok(negatives),
            false => Err(refuse(format!("its rows are not the {} of the run", self.rows.n_rows()))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn epoch_and_numbers_of_steps_are_read_as_they_are_written() {
        for every in [RemineEvery::Epoch, RemineEvery::Steps(7)] {
            assert_eq!(every.to_string().parse::<RemineEvery>().unwrap(), every);
            let json = serde_json::to_string(&every).unwrap();
            assert_eq!(serde_json::from_str::<RemineEvery>(&json).unwrap(), every);
        }
        for wrong in ["0", "-1", "epochs", ""] {
            assert!(wrong.parse::<RemineEvery>().unwrap_err().contains("expected epoch"), "{wrong}");
        }
    }

    #[test]
    fn a_step_knows_the_round_whose_negatives_it_trained_on() {
        let of = |every: RemineEvery| [1, 4, 5, 8, 9, 11].map(|step| round_before(step, every.cadence(4)));
        assert_eq!(of(RemineEvery::Epoch), [None, None, Some(4), Some(4), Some(8), Some(8)]);
        assert_eq!(of(RemineEvery::Steps(5)), [None, None, None, Some(5), Some(5), Some(10)]);
    }

    #[test]
    fn what_rounds_cannot_do_is_refused_with_the_reason() {
        let with = |change: &dyn Fn(&mut TrainSettings)| {
            let mut settings = TrainSettings { remine_every: Some(RemineEvery::Steps(5)), ..TrainSettings::default() };
            change(&mut settings);
            check_settings(&settings)
        };
        with(&|_| {}).unwrap();
        type Change = fn(&mut TrainSettings);
        let cases: [(Change, &str); 7] = [
            (|s| s.loss.name = crate::train::LossName::MarginMse, "no scores to learn from"),
            (|s| s.loss.guide_model = Some("m".into()), "`--guide_model`"),
            (|s| s.train_group_size = 1, "no negative would be used"),
            (|s| s.dataset = vec![OwnSettings { train_group_size: Some(3), ..OwnSettings::default() }], "of their own"),
            (|s| s.adaptation.cache_frozen_layers = true, "new texts of each round"),
            (|s| s.batch_sampler = BatchSampler::NoDuplicates, "depend on its negatives"),
            (|s| (s.remine_every, s.remine_negatives) = (None, Some(3)), "no effect"),
        ];
        for (change, problem) in cases {
            let error = with(&change).unwrap_err();
            assert!(error.to_string().contains(problem), "{error}");
        }
    }
}

//! The whole job of `embertune train`: model and data from their files, the steps, and the folder of the trained model.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use embertune_kernels::Ops;
use embertune_kernels::ops::Memory;

use crate::comm::{Alone, Communicator, Counted, Traffic, all_or_none, by_first, gather};
use crate::data::{RowsOf, StoredExamples};
use crate::error::{Error, Result};
use crate::model::{EmbeddingModel, Overrides, resolve};
use crate::progress::{Progress, Silent};
use crate::train::cadence::{Cadence, Steps};
use crate::train::checkpoint::{Files, Fingerprint, MOMENTS, State};
use crate::train::checksums;
use crate::train::config::to_toml;
use crate::train::dataset::TrainingSet;
use crate::train::evaluation::{Evaluated, HeldOut};
use crate::train::events::{EvaluationEvent, Observer, StepEvent};
use crate::train::forecast::{Forecast, Limits, forecast};
use crate::train::guards::unchanged;
use crate::train::measure::{At, Verdict};
use crate::train::memory::{peak_memory_bytes, resident_bytes};
use crate::train::merge::{Judge, MergeAlpha, Merging, merge};
use crate::train::mixture::OwnSettings;
use crate::train::output::RunFolder;
use crate::train::ranks::check_alike;
use crate::train::record::{Counts, EvaluationEntry, FileRecord, RunRecord, Seconds, SoFar, Window};
use crate::train::rounds::{Rounds, round_before};
use crate::train::rows::{HeldOutRows, Rows, read_rows};
use crate::train::sampler::rows_per_epoch;
use crate::train::settings::TrainSettings;
use crate::train::tensorboard::ReportTo;
use crate::train::trainer::{StepReport, Trainer};

/// Trains as `settings` say and writes `output_dir`, which is the trained model with `log.jsonl`, `run.json`, `run.toml` and the
/// checkpoints in it. Runs in the current rayon pool. Gives the record.
///
/// # Errors
/// Settings, data or a model that cannot work; a loss that is not finite; a file system that fails; a checkpoint of another run;
/// [`Error::Interrupted`] where `observer` asked for it. `output_dir` is not touched then, and what was logged and saved until then
/// is in `<output_dir>.partial`.
pub fn train<O: Ops>(ops: O, settings: &TrainSettings, observer: &dyn Observer) -> Result<RunRecord> {
    Ok(train_as_rank(ops, settings, &Alone, observer)?.expect("rank 0 has the record"))
}

/// As [`train`], as one of several ranks that do the steps together: all of them call it with the same settings and data. Rank 0 alone
/// writes, logs, mixes with the base model, reads what is resumed, and has the record. All ranks together do what one process does with
/// [joined](TrainSettings::joined) settings.
///
/// # Errors
/// Those of [`train`], on any rank; ranks that are not at the same run; a rank that is gone.
pub fn train_as_rank<O: Ops>(
    ops: O,
    own_settings: &TrainSettings,
    ranks: &dyn Communicator,
    observer: &dyn Observer,
) -> Result<Option<RunRecord>> {
    let counted = Counted::new(ranks);
    let ranks: &dyn Communicator = &counted;
    let joined = own_settings.joined(ranks.size());
    let begun = Begun::new(ops, &joined, ranks, observer);
    let Begun { mut folder, resumed, prepared } = all_or_none(ranks, begun)?;
    let Prepared { mut model, set, held_out, rounds, fingerprint, settings, forecast, seconds: before } = prepared;
    check_alike(&fingerprint, settings.shard_optimizer, ranks)?;
    let settings = &settings;
    let recorded = if ranks.size() == 1 { settings } else { own_settings };
    let resume = settings.resume_from_checkpoint.as_ref();
    if let Some(folder) = &folder {
        folder.save_config(&to_toml(recorded))?;
    }

    let n_texts = set.texts.len();
    let mut trainer = Trainer::as_rank(&mut model, Cow::Owned(set), settings, ranks)?.within(&forecast);
    let n_steps_per_epoch = trainer.plan().batches.steps_per_epoch();
    let remines = settings.remine_every.map_or(Cadence::NEVER, |every| every.cadence(n_steps_per_epoch));
    let mut so_far = by_first(ranks, || match (resumed, &mut folder) {
        (Some(state), Some(folder)) => resume_at(state, &mut trainer, folder, &fingerprint, settings, observer),
        _ => {
            if resume.is_some() {
                observer.note("there is no checkpoint to resume from yet: the run begins anew");
            }
            let counts = Counts::planned(trainer.plan(), n_texts, trainer.model().parameters().n_trained());
            Ok(SoFar { counts, ..SoFar::default() })
        }
    })?;
    let step = so_far.counts.steps;
    if step > 0 && ranks.size() > 1 {
        let from = folder.as_ref().and_then(RunFolder::resumes_from);
        let moments = from.map(|checkpoint| checkpoint.join(MOMENTS));
        trainer.go_on_with_first(step, so_far.temperature, moments.as_deref())?;
    }
    if let (Some(rounds), Some(round)) = (&rounds, round_before(step, remines)) {
        let read = || folder.as_ref().map_or(Ok(Vec::new()), |folder| rounds.read(&folder.mined(round)));
        trainer.replace_negatives(&by_first(ranks, read)?)?;
    }
    let began = Instant::now();
    trainer.cache_frozen_layers()?;
    so_far.seconds.data += began.elapsed().as_secs_f64();
    if let (ReportTo::Tensorboard, Some(folder)) = (settings.report_to, &mut folder) {
        let steps_done = trainer.steps_done();
        folder.report(settings.logging_dir.as_deref(), (steps_done > 0).then_some(steps_done))?;
    }
    so_far.seconds.load += before.load;
    so_far.seconds.data += before.data;

    let n_steps = trainer.plan().total_steps;
    if let Some(every) = settings.remine_every.filter(|_| !(1..n_steps).any(|step| remines.is_due(step))) {
        observer.warn(&format!("`--remine_every {every}`: no round comes before the last of {n_steps} steps"));
    }
    let cadence = |strategy, steps: Steps| Cadence::new(strategy, steps.of(n_steps), n_steps_per_epoch);
    let mut run = Run {
        logs: cadence(settings.logging_strategy, settings.logging_steps),
        saves: cadence(settings.save_strategy, settings.save_steps),
        evaluates: cadence(settings.eval_strategy(), settings.eval_steps()),
        remines,
        trainer,
        held_out,
        evaluated: BTreeMap::new(),
        rounds,
        settings,
        forecast: &forecast,
        folder: folder.as_mut(),
        fingerprint: &fingerprint,
        so_far,
        ranks: &counted,
        observer,
    };
    run.all_steps()?;
    // The mixing takes as long as its evaluations do: whoever stops it goes on from here.
    let mixes = settings.merge_alpha.is_some() && run.held_out.is_some();
    let checkpoint = if mixes { Some(run.checkpoint(None)?) } else { None };
    let temperature = run.trainer.temperature();
    let Run { trainer, held_out, evaluated, so_far, .. } = run;
    // Its gradients and moments: what follows needs memory of its own, numbers on the host among it.
    drop(trainer);
    let mut record = None;
    by_first(ranks, || {
        let Some(folder) = folder else { return Ok(()) };
        let n_ranks = ranks.size();
        let done = Done {
            model,
            folder,
            held_out,
            evaluated,
            checkpoint,
            fingerprint,
            forecast,
            so_far,
            temperature,
            n_ranks,
        };
        record = Some(done.conclude(settings, recorded, observer)?);
        Ok(())
    })?;
    Ok(record)
}

/// A run whose steps are done, on rank 0.
struct Done<O: Ops> {
    model: EmbeddingModel<O>,
    folder: RunFolder,
    held_out: Option<HeldOut>,
    evaluated: BTreeMap<usize, Evaluated>,
    /// That of the last step, where a mixing follows.
    checkpoint: Option<PathBuf>,
    fingerprint: Fingerprint,
    forecast: Forecast,
    so_far: SoFar,
    temperature: f64,
    n_ranks: usize,
}

impl<O: Ops> Done<O> {
    /// Chooses and mixes the model as the settings say, and puts the output folder together.
    fn conclude(
        self,
        settings: &TrainSettings,
        recorded: &TrainSettings,
        observer: &dyn Observer,
    ) -> Result<RunRecord> {
        let Done { mut model, folder, held_out, mut evaluated, checkpoint, fingerprint, forecast, so_far, .. } = self;
        model.ops().limit_buffers(0);
        let n_host_bytes = 2 * size_of::<f32>() * model.parameters().n_trained();
        model.ops().limit_buffers(forecast.buffer_limit.saturating_sub(n_host_bytes));
        let SoFar { counts, losses, mut seconds, traffic, history, guards, resumed_after, .. } = so_far;
        if fingerprint.is_base(&model) {
            observer.warn(guards.unchanged());
        }

        let best = history.best.filter(|best| settings.load_best_model_at_end && best.step != counts.steps);
        if let Some(best) = best {
            folder.take_best(&mut model, best.step)?;
        }
        let step_of_model = best.map_or(counts.steps, |best| best.step);
        let (base, tuned) = (evaluated.remove(&0), evaluated.remove(&step_of_model));
        let judge = held_out.map(|held_out| Judge { held_out, base, tuned });
        let began = Instant::now();
        let mix = |alpha| merge_with_base(&mut model, alpha, judge.as_ref(), &fingerprint, settings, observer);
        let merging = settings.merge_alpha.map(mix).transpose().map_err(|error| match (error, &checkpoint) {
            (Error::Stopped, Some(checkpoint)) => {
                Error::Interrupted { step: counts.steps, checkpoint: checkpoint.clone() }
            }
            (error, _) => error,
        })?;
        seconds.evaluation += began.elapsed().as_secs_f64();
        let rates = settings.dropout_rates(model.dropout());
        let record = RunRecord {
            format: 1,
            embertune: env!("CARGO_PKG_VERSION"),
            settings: recorded.clone(),
            temperature: self.temperature,
            dropout: [rates.hidden, rates.attention],
            prompts: [model.prompts().query.clone(), model.prompts().passage.clone()],
            data: fingerprint.files.train_data.clone(),
            more_data: fingerprint.files.more_train_data.clone(),
            eval_data: fingerprint.files.eval_data.clone(),
            candidate_pool: fingerprint.files.candidate_pool.clone(),
            forecast,
            seconds,
            peak_memory_bytes: peak_memory_bytes(),
            threads: rayon::current_num_threads(),
            ranks: self.n_ranks,
            traffic,
            losses,
            evaluation: history,
            merging,
            step_of_model,
            resumed_after,
            counts,
        };
        // Reading back what is written needs memory of its own.
        model.ops().limit_buffers(0);
        folder.finish(&model, settings.adaptation.save_adapter, &record, checkpoint.as_deref())?;
        let kept_base = record.merging.as_ref().is_some_and(|merging| merging.alpha == 0.0);
        if let Some(best) = best.filter(|_| !kept_base) {
            observer.note(&format!(
                "the model is that of step {}, the best by {}; the last one is in `last`",
                best.step,
                settings.measure()
            ));
        }
        observer.note(&record.forecast.outcome(&record.seconds, peak_memory_bytes()));
        observer.saved(&settings.output_dir);
        Ok(record)
    }
}

/// Mixes the tuned `model` with its base, which is loaded again and has to be the same still.
fn merge_with_base<O: Ops>(
    model: &mut EmbeddingModel<O>,
    alpha: MergeAlpha,
    judge: Option<&Judge>,
    fingerprint: &Fingerprint,
    settings: &TrainSettings,
    observer: &dyn Observer,
) -> Result<Merging> {
    let base = |tuned: &EmbeddingModel<O>| {
        let folder = resolve(&settings.model_name_or_path, observer)?;
        let base = EmbeddingModel::load_beside(tuned, &folder, &settings.overrides()?, &Silent)?;
        if fingerprint.is_base(&base) {
            return Ok(base);
        }
        Err(Error::Model {
            path: folder,
            problem: "is another model than at the beginning of the run: `--merge_alpha` has nothing to merge with"
                .into(),
            hint: Some("put the base model back and resume from the last checkpoint".into()),
        })
    };
    let merging = merge(model, alpha, base, judge, settings, observer)?;
    if merging.alpha == 0.0 && alpha == MergeAlpha::Auto {
        observer.warn("on the held-out rows nothing was better than the base model: the base model is what is saved");
    }
    Ok(merging)
}

/// All that comes before the first step, and nothing that is written: what a run as `settings` say would take, which is also said to
/// the observer. The output folder is not looked at.
///
/// # Errors
/// Those of [`train`] until then.
pub fn dry_run<O: Ops>(ops: O, settings: &TrainSettings, observer: &dyn Observer) -> Result<Forecast> {
    dry_run_as_rank(ops, settings, &Alone, observer)
}

/// As [`dry_run`], of a run of several ranks. They send each other nothing.
///
/// # Errors
/// Those of [`dry_run`].
pub fn dry_run_as_rank<O: Ops>(
    ops: O,
    own_settings: &TrainSettings,
    ranks: &dyn Communicator,
    observer: &dyn Observer,
) -> Result<Forecast> {
    let joined = own_settings.joined(ranks.size());
    let budget_bytes = begin(&ops, &joined, ranks, observer)?;
    Ok(prepare(ops, &joined, budget_bytes, ranks.size(), observer)?.forecast)
}

/// Checks the settings, and what memory they leave before anything is loaded.
fn begin<O: Ops>(
    ops: &O,
    settings: &TrainSettings,
    ranks: &dyn Communicator,
    observer: &dyn Observer,
) -> Result<Option<u64>> {
    let n_ranks = ranks.size();
    settings.validate()?;
    if settings.find_batch_size && n_ranks > 1 {
        return Err(Error::Setting {
            problem: format!("`--find_batch_size` with {n_ranks} ranks: each machine would find another one"),
            hint: Some("find it on the smallest machine alone, and pass it as `--per_device_train_batch_size`".into()),
        });
    }
    settings.notes(n_ranks).iter().for_each(|note| observer.note(note));
    settings.warnings().iter().for_each(|warning| observer.warn(warning));
    if n_ranks > 1 {
        let n_rows = settings.per_device_train_batch_size;
        let batches = match settings.negatives_cross_device {
            true => format!("they share batches of {n_rows} rows, and their negatives"),
            false => format!("each has batches of {n_rows} rows with negatives of their own"),
        };
        observer.note(&format!("{n_ranks} ranks: {batches}; what follows of tokens, time and memory is rank 0's part"));
    }
    Ok(match ops.memory() {
        Memory::OfProcess => settings.memory_budget.bytes(ranks.n_on_host()),
        Memory::Own { bytes } => settings.memory_budget.bytes_of_device(bytes, ranks.n_on_host()),
    })
}

/// What a rank has before the first thing that it sends the others.
struct Begun<O: Ops> {
    /// Rank 0's.
    folder: Option<RunFolder>,
    /// Read by rank 0.
    resumed: Option<State>,
    prepared: Prepared<O>,
}

impl<O: Ops> Begun<O> {
    fn new(ops: O, settings: &TrainSettings, ranks: &dyn Communicator, observer: &dyn Observer) -> Result<Self> {
        let budget_bytes = begin(&ops, settings, ranks, observer)?;
        let resume = settings.resume_from_checkpoint.as_ref();
        let open = || RunFolder::open(&settings.output_dir, settings.overwrite_output_dir, resume);
        let folder = (ranks.rank() == 0).then(open).transpose()?;
        let resumed = folder.as_ref().and_then(RunFolder::resumes_from).map(State::read).transpose()?;
        let prepared = prepare(ops, settings, budget_bytes, ranks.size(), observer)?;
        Ok(Begun { folder, resumed, prepared })
    }
}

/// What the steps begin with.
struct Prepared<O: Ops> {
    model: EmbeddingModel<O>,
    set: TrainingSet,
    held_out: Option<HeldOut>,
    rounds: Option<Rounds>,
    fingerprint: Fingerprint,
    /// With the batch size in use.
    settings: TrainSettings,
    forecast: Forecast,
    seconds: Seconds,
}

fn prepare<O: Ops>(
    ops: O,
    settings: &TrainSettings,
    budget_bytes: Option<u64>,
    n_ranks: usize,
    observer: &dyn Observer,
) -> Result<Prepared<O>> {
    let overrides = settings.overrides()?;
    let started = Instant::now();
    let base = resolve(&settings.model_name_or_path, observer)?;
    let before = resident_bytes().unwrap_or(0);
    let mut model = EmbeddingModel::load(ops, &base, &overrides, observer)?;
    let load_bytes = peak_memory_bytes().unwrap_or(0).saturating_sub(before);
    let loaded = Instant::now();
    settings.adaptation.apply(&mut model, &settings.model_name_or_path, settings.seed)?;
    settings.adaptation.notes(&model).iter().for_each(|note| observer.note(note));
    settings.loss.validate_width(model.dim())?;
    let sets: Vec<_> = (0..=settings.more_train_data.len()).map(|i| settings.of_set(i)).collect();
    let mut notes: Vec<_> = sets.iter().flat_map(|own| own.loss.notes(own.normalized, model.dim())).collect();
    notes.dedup();
    notes.iter().for_each(|note| observer.note(note));
    let rows = Rows::read(settings, observer)?;
    // There no longer than it takes to embed the texts.
    let guide = settings.loss.guide_model.as_ref().map(|guide| load_guide(guide, &model, observer)).transpose()?;
    let part = |examples: &StoredExamples, path: &Path, own: &TrainSettings| -> Result<TrainingSet> {
        let set = TrainingSet::new(&model, examples, path, own, observer)?;
        match guide.as_ref().filter(|_| own.loss.guide_model.is_some()) {
            Some(guide) => set.guided_by(guide, examples, own, observer),
            None => Ok(set),
        }
    };
    let set = part(&rows.train, &settings.train_data, &sets[0])?;
    // Rounds read the texts again; else they are needed no more.
    let mut to_mine = if settings.remine_every.is_some() { rows.train } else { StoredExamples::default() };
    let set = settings.more_train_data.iter().zip(&sets[1..]).try_fold(set, |set, (path, own)| {
        let examples = read_rows(path, own, observer)?;
        let set = set.join(part(&examples, path, own)?);
        if settings.remine_every.is_some() {
            examples.rows().try_for_each(|row| to_mine.push(&*row?))?;
        }
        Ok::<_, Error>(set)
    })?;
    let guide = guide.map(|guide| guide.hash());
    let rounds = Rounds::new(to_mine, settings, observer)?;
    say_shares(&set, settings, observer);
    let held_out = match rows.held_out {
        Some(HeldOutRows { rows, path, candidates }) => {
            Some(HeldOut::new(&model, &rows, &path, candidates, settings, observer)?)
        }
        None => None,
    };
    let record = |path: &Option<PathBuf>, is_read: bool| {
        path.as_ref().filter(|_| is_read).map(|path| FileRecord::of(path)).transpose()
    };
    let evaluates = settings.evaluates();
    let more = settings.more_train_data.iter().map(|path| FileRecord::of(path));
    let files = Files {
        train_data: FileRecord::of(&settings.train_data)?,
        more_train_data: more.collect::<Result<_>>()?,
        eval_data: record(&settings.eval_data, evaluates)?,
        candidate_pool: record(&settings.candidate_pool, evaluates || settings.remine_every.is_some())?,
    };
    let seconds =
        Seconds { load: (loaded - started).as_secs_f64(), data: loaded.elapsed().as_secs_f64(), ..Seconds::default() };
    let (forecast, settings) =
        forecast(&mut model, &set, held_out.as_ref(), settings, Limits { budget_bytes, load_bytes, n_ranks })?;
    forecast.lines(&settings).iter().for_each(|line| observer.note(line));
    let fingerprint = Fingerprint::new(&model, guide, &set, &settings, files)?;
    Ok(Prepared { model, set, held_out, rounds, fingerprint, settings, forecast, seconds })
}

/// The model `guide`, which embeds the texts.
fn load_guide<O: Ops>(guide: &str, trained: &EmbeddingModel<O>, observer: &dyn Observer) -> Result<EmbeddingModel<O>> {
    observer.note(&format!("`--guide_model {guide}` embeds the texts"));
    let unit = Overrides { normalize: Some(true), ..Overrides::default() };
    EmbeddingModel::load_beside(trained, &resolve(guide, observer)?, &unit, observer)
}

/// Says what an epoch takes of each data set, where there are several.
fn say_shares(set: &TrainingSet, settings: &TrainSettings, observer: &dyn Observer) {
    for (i, file) in set.files.iter().enumerate().filter(|_| settings.mixes_data_sets()) {
        let n_rows = file.rows.len();
        let n_wanted = rows_per_epoch(settings, i, n_rows);
        let own = settings.dataset.get(i).filter(|own| **own != OwnSettings::default());
        let own = own.map(|own| format!("; its own: {}", serde_json::json!(own))).unwrap_or_default();
        observer.note(&format!(
            "{}: {n_rows} rows, of which an epoch takes {n_wanted}, in {} batches of their own{own}",
            file.path.display(),
            n_wanted / settings.per_device_train_batch_size
        ));
    }
}

/// Brings trainer and folder to where the checkpoint was written.
fn resume_at<O: Ops>(
    state: State,
    trainer: &mut Trainer<'_, O>,
    folder: &mut RunFolder,
    fingerprint: &Fingerprint,
    settings: &TrainSettings,
    observer: &dyn Observer,
) -> Result<SoFar> {
    let Some(from) = folder.resumes_from().map(PathBuf::from) else { return Ok(state.so_far) };
    state.check(fingerprint, &from)?;
    checksums::check(&from)?;
    state.note().iter().for_each(|note| observer.note(note));
    let mut so_far = state.so_far;
    let step = so_far.counts.steps;
    trainer.restore(&from, &from.join(MOMENTS), step, so_far.temperature)?;
    let best = so_far.history.best.filter(|_| settings.load_best_model_at_end);
    folder.rewind(step, best.map(|best| best.step))?;
    so_far.resumed_after.push(step);
    observer.note(&format!("goes on after step {step}, from {}", from.display()));
    Ok(so_far)
}

/// A run in progress, with its files.
struct Run<'a, O: Ops> {
    trainer: Trainer<'a, O>,
    held_out: Option<HeldOut>,
    /// What was found after step 0, the best and the last one: the mixing comes back to these models.
    evaluated: BTreeMap<usize, Evaluated>,
    rounds: Option<Rounds>,
    settings: &'a TrainSettings,
    forecast: &'a Forecast,
    /// On rank 0.
    folder: Option<&'a mut RunFolder>,
    fingerprint: &'a Fingerprint,
    so_far: SoFar,
    logs: Cadence,
    saves: Cadence,
    evaluates: Cadence,
    remines: Cadence,
    ranks: &'a Counted<'a>,
    observer: &'a dyn Observer,
}

impl<O: Ops> Run<'_, O> {
    fn all_steps(&mut self) -> Result<()> {
        let plan = *self.trainer.plan();
        let observer = self.observer;
        if plan.n_rows_left_out() > 0 {
            observer.note(&format!(
                "the last {} rows of each epoch's order are no whole batch and are left out of it",
                plan.n_rows_left_out()
            ));
        }
        if let Some(note) = self.trainer.shared_texts() {
            observer.note(&note);
        }
        if self.trainer.learns_nothing() {
            observer.warn(&format!(
                "the learning rate is 0 in all {} steps, so nothing is learnt: shorten the warm-up (`--warmup_ratio`, \
                 `--warmup_steps`) or train longer",
                plan.total_steps
            ));
        }
        if self.so_far.history.baseline.is_none() {
            self.evaluate(0.0)?;
        }
        observer.training_begins(&plan, self.trainer.steps_done());
        let mut is_over = match self.so_far.unevaluated.take() {
            Some(report) => self.after_step(&report)?,
            None => self.stops_early(),
        };
        while !is_over {
            self.mine_again()?;
            let before =
                self.so_far.guards.watches_weights(self.trainer.learning_rate()).then(|| self.trainer.weight_norms());
            let (began, traffic_before) = (Instant::now(), self.ranks.so_far());
            let Some(report) = self.trainer.step() else { break };
            let report = report?;
            let took = began.elapsed();
            if before.is_some_and(|before| before == self.trainer.weight_norms()) {
                unchanged(&report).iter().for_each(|sign| observer.warn(sign));
            }
            self.take_in(&report, took, self.ranks.so_far() - traffic_before)?;
            is_over = self.after_step(&report)?;
        }
        self.trainer.check_in_step()?;
        observer.training_ends();
        self.say_how_it_ended();
        Ok(())
    }

    /// Evaluates and saves, where that is due after a step that was counted. Whether it was the last one.
    fn after_step(&mut self, report: &StepReport) -> Result<bool> {
        let is_last = report.step == self.trainer.plan().total_steps;
        if self.held_out.is_some() && (is_last || self.evaluates.is_due(report.step)) {
            match self.evaluate(report.epoch) {
                Err(Error::Stopped) => {
                    self.so_far.unevaluated = Some(report.clone());
                    return self.interrupt(report.step);
                }
                evaluated => evaluated?,
            }
        }
        if self.stops_early() && !self.so_far.window.is_empty() {
            self.log(report)?;
        }
        if is_last || self.stops_early() {
            return Ok(true);
        }
        // Whoever is asked to stop asks all; when to save is up to rank 0.
        let asked = gather(self.ranks, Ok((self.observer.is_stop_requested(), self.saves.is_due(report.step))))?;
        if asked.iter().any(|(stops, _)| *stops) {
            return self.interrupt(report.step);
        }
        if asked[0].1 {
            let checkpoint = self.checkpoint(self.settings.save_total_limit)?;
            self.observer.saved(&checkpoint);
        }
        Ok(false)
    }

    /// Ends the run as somebody asks for, with a checkpoint of the last step.
    fn interrupt(&mut self, step: usize) -> Result<bool> {
        let checkpoint = self.checkpoint(self.settings.save_total_limit)?;
        self.observer.saved(&checkpoint);
        Err(Error::Interrupted { step, checkpoint })
    }

    /// The round that is due before the next step, where one is. After the last step nobody would see its negatives.
    fn mine_again(&mut self) -> Result<()> {
        let step = self.trainer.steps_done();
        let Some(rounds) = &self.rounds else { return Ok(()) };
        if step == 0 || step >= self.trainer.plan().total_steps || !self.remines.is_due(step) {
            return Ok(());
        }
        let began = Instant::now();
        self.trainer.free_memory();
        let (trainer, folder) = (&self.trainer, &self.folder);
        let mined = rounds.mine(trainer.model(), trainer.set(), self.ranks, self.stopping());
        let round = match all_or_none(self.ranks, mined) {
            Err(Error::Stopped) => return self.interrupt(step).map(drop),
            mined => mined?,
        };
        by_first(self.ranks, || folder.as_ref().map_or(Ok(()), |folder| rounds.write(&round, &folder.mined(step))))?;
        self.trainer.replace_negatives(&round.negatives)?;
        let seconds = began.elapsed().as_secs_f64();
        self.so_far.seconds.mining += seconds;
        let kept = match round.n_kept {
            0 => String::new(),
            n => format!("; rows without any, which get those of their file again: {n}"),
        };
        self.observer.note(&format!(
            "mined again after step {step}, among {} candidates in {seconds:.0} s: {:.0} % of the negatives are new{kept}",
            rounds.n_candidates(),
            100.0 * round.share_new
        ));
        Ok(())
    }

    /// Counts, shows and logs a step.
    fn take_in(&mut self, report: &StepReport, took: Duration, traffic: Traffic) -> Result<()> {
        // Where tokens can't be read the next step says so.
        let look = || self.trainer.mean_cosine().unwrap_or_default();
        let signs = self.so_far.guards.look_at(report, self.settings, look);
        signs.iter().for_each(|sign| self.observer.warn(sign));
        self.so_far.add(report, took.as_secs_f64(), traffic);
        self.so_far.temperature = self.trainer.learned_temperature();
        let total_steps = self.trainer.plan().total_steps;
        let seconds = self.so_far.seconds.train;
        if let Some(note) = self.forecast.revised(report.step, seconds) {
            self.observer.note(&note);
        }
        self.observer.step_done(&StepEvent {
            report,
            total_steps,
            examples_per_s: self.so_far.counts.examples as f64 / seconds,
            time_left: Duration::from_secs_f64(seconds / report.step as f64 * (total_steps - report.step) as f64),
        });
        let is_first = report.step == 1 && self.settings.logging_first_step;
        if is_first || report.step == total_steps || self.logs.is_due(report.step) {
            self.log(report)?;
        }
        Ok(())
    }

    /// Writes the line of the log that ends with the step `last`.
    fn log(&mut self, last: &StepReport) -> Result<()> {
        if let Some(folder) = &mut self.folder {
            folder.log(&self.so_far.window.entry(last, &self.trainer.set().names()))?;
        }
        self.so_far.window = Window::default();
        Ok(())
    }

    /// Who may stop what is done between two steps. Several ranks write a checkpoint together, so they go on to where all of them ask.
    fn stopping(&self) -> &dyn Progress {
        if self.ranks.size() == 1 { self.observer } else { &Silent }
    }

    /// Evaluates the model, where there is something to evaluate on; keeps it where it is the best.
    fn evaluate(&mut self, epoch: f64) -> Result<()> {
        let Some(held_out) = &self.held_out else { return Ok(()) };
        let (measure, step) = (self.settings.measure(), self.trainer.steps_done());
        let began = Instant::now();
        self.trainer.free_memory();
        let progress = if step == 0 { self.observer } else { self.stopping() };
        let found = held_out.evaluate(self.trainer.model(), self.settings, self.ranks, progress);
        let found = all_or_none(self.ranks, found)?;
        let scores = found.scores;
        self.evaluated.insert(step, found);
        if scores.of(measure).is_none() {
            return Err(Error::Setting {
                problem: format!(
                    "`--metric_for_best_model {measure}`: the held-out rows have no negatives, and get none from their batch"
                ),
                hint: Some("take ndcg@10, mrr@10 or hit@1".into()),
            });
        }
        let entry = EvaluationEntry { step, epoch, scores, eval_seconds: began.elapsed().as_secs_f64() };
        self.so_far.seconds.evaluation += entry.eval_seconds;
        if let Some(folder) = &mut self.folder {
            folder.log(&entry)?;
        }
        let verdict = self.so_far.history.add(At { step, scores }, measure, self.settings.early_stopping_threshold);
        let best = self.so_far.history.best.map(|best| best.step);
        self.evaluated.retain(|&of, _| of == 0 || of == step || Some(of) == best);
        self.observer.evaluated(&EvaluationEvent { entry: &entry, measure, verdict, history: &self.so_far.history });
        if verdict == Verdict::Best && self.settings.load_best_model_at_end {
            self.trainer.free_memory();
            let save = |folder: &&mut RunFolder| folder.save_best(self.trainer.model(), step);
            by_first(self.ranks, || self.folder.as_ref().map_or(Ok(()), save))?;
        }
        Ok(())
    }

    /// Whether early stopping has lost its patience by the evaluation after this step.
    fn stops_early(&self) -> bool {
        let (step, history) = (self.trainer.steps_done(), &self.so_far.history);
        let was_evaluated = history.last.is_some_and(|last| last.step == step);
        let has_lost_patience = |patience| history.n_without_gain >= patience;
        step < self.trainer.plan().total_steps
            && was_evaluated
            && self.settings.early_stopping_patience.is_some_and(has_lost_patience)
    }

    /// Writes a checkpoint of the last step, unless the run went on from it, and keeps no more than `limit` of them.
    fn checkpoint(&mut self, limit: Option<usize>) -> Result<PathBuf> {
        let step = self.trainer.steps_done();
        let there = by_first(self.ranks, || Ok(self.folder.as_ref().and_then(|folder| folder.checkpoint_after(step))))?;
        if let Some(there) = there {
            return Ok(there);
        }
        let began = Instant::now();
        self.trainer.free_memory();
        let state = State::new(self.fingerprint, &self.so_far);
        self.trainer.check_in_step()?;
        let moments = self.folder.as_ref().map(|folder| folder.moments());
        self.trainer.save_moments(moments.as_deref())?;
        let save = |folder: &&mut RunFolder| folder.checkpoint(&self.trainer, &state, limit);
        let saved = by_first(self.ranks, || self.folder.as_ref().map_or(Ok(PathBuf::new()), save))?;
        self.so_far.seconds.checkpoints += began.elapsed().as_secs_f64();
        Ok(saved)
    }

    fn say_how_it_ended(&self) {
        let SoFar { losses, history, traffic, seconds, counts, .. } = &self.so_far;
        if self.stops_early() {
            self.observer.note(&format!(
                "stops early, after step {}: {} evaluations in a row were no better by {}",
                self.trainer.steps_done(),
                history.n_without_gain,
                self.settings.measure()
            ));
        }
        if self.ranks.size() > 1 && counts.steps > 0 {
            let Traffic { sent_bytes, received_bytes, seconds: waited } = traffic.per(counts.steps);
            self.observer.note(&format!(
                "a step of rank 0 sent {:.1} MB and received {:.1} MB; sending and waiting for others took {:.3} s, some of it beside the \
                 backward, and the step {:.3} s",
                sent_bytes as f64 / 1e6,
                received_bytes as f64 / 1e6,
                waited,
                seconds.train / counts.steps as f64
            ));
        }
        if [losses.first, losses.last, losses.mean] == [0.0; 3] {
            self.observer.warn(
                "the loss was 0 in every step, so nothing was learnt: have the queries any negatives? Mine some with `embertune mine`, \
                 or train with larger batches",
            );
        }
        let measure = self.settings.measure();
        if history.gain_over_baseline(measure).is_some_and(|gain| gain <= 0.0) {
            self.observer.warn(&format!(
                "by {measure} no evaluation was better than the base model: try a smaller `--learning_rate`, other negatives or more data"
            ));
        }
    }
}

//! The whole job of `embertune train`: model and data from their files, the steps, and the folder of the trained model.

use std::time::{Duration, Instant};

use embertune_kernels::Ops;

use crate::data::{Example, read_examples, read_scored_examples};
use crate::error::Result;
use crate::model::{EmbeddingModel, Overrides, resolve};
use crate::train::dataset::TrainingSet;
use crate::train::events::{Observer, StepEvent};
use crate::train::forecast::{Forecast, Limits, forecast};
use crate::train::loss_settings::Reads;
use crate::train::memory::{peak_memory_bytes, resident_bytes};
use crate::train::output::RunFolder;
use crate::train::record::{Counts, FileRecord, Losses, RunRecord, Seconds, Window};
use crate::train::settings::TrainSettings;
use crate::train::trainer::{StepReport, Trainer};

/// Trains as `settings` say and writes `output_dir`, which is the trained model with `log.jsonl`, `run.json` and the checkpoints in
/// it. Runs in the current rayon pool. Gives the record.
///
/// # Errors
/// Settings, data or a model that cannot work; a loss that is not finite; a file system that fails. `output_dir` is not touched
/// then, and what was logged and saved until then is in `<output_dir>.partial`.
pub fn train<O: Ops>(ops: O, settings: &TrainSettings, observer: &dyn Observer) -> Result<RunRecord> {
    let budget_bytes = begin(settings, observer)?;
    let mut folder = RunFolder::create(&settings.output_dir, settings.overwrite_output_dir)?;
    let Prepared { mut model, set, data, settings, forecast, mut seconds } =
        prepare(ops, settings, budget_bytes, observer)?;
    let settings = &settings;

    let mut trainer = Trainer::new(&mut model, &set, settings)?.within(&forecast);
    let outcome = run_steps(&mut trainer, &set, settings, &mut folder, &mut seconds, observer)?;
    drop(trainer);
    let rates = settings.dropout_rates(model.dropout());
    let record = RunRecord {
        format: 1,
        embertune: env!("CARGO_PKG_VERSION"),
        settings: settings.clone(),
        temperature: outcome.temperature,
        dropout: [rates.hidden, rates.attention],
        prompts: [model.prompts().query.clone(), model.prompts().passage.clone()],
        data,
        forecast,
        counts: outcome.counts,
        seconds,
        peak_memory_bytes: peak_memory_bytes(),
        threads: rayon::current_num_threads(),
        losses: outcome.losses,
    };
    // Reading back what is written needs memory of its own.
    model.ops().limit_buffers(0);
    folder.finish(&model, &record)?;
    observer.note(&record.forecast.outcome(record.seconds.train, peak_memory_bytes()));
    observer.saved(&settings.output_dir);
    Ok(record)
}

/// All that comes before the first step, and nothing that is written: what a run as `settings` say would take, which is also said to
/// the observer. The output folder is not looked at.
///
/// # Errors
/// Those of [`train`] until then.
pub fn dry_run<O: Ops>(ops: O, settings: &TrainSettings, observer: &dyn Observer) -> Result<Forecast> {
    let budget_bytes = begin(settings, observer)?;
    Ok(prepare(ops, settings, budget_bytes, observer)?.forecast)
}

/// Checks the settings, and what memory they leave before anything is loaded.
fn begin(settings: &TrainSettings, observer: &dyn Observer) -> Result<Option<u64>> {
    settings.validate()?;
    settings.notes().iter().for_each(|note| observer.note(note));
    Ok(settings.memory_budget.bytes())
}

/// What the steps begin with.
struct Prepared<O: Ops> {
    model: EmbeddingModel<O>,
    set: TrainingSet,
    data: FileRecord,
    /// With the batch size in use.
    settings: TrainSettings,
    forecast: Forecast,
    seconds: Seconds,
}

fn prepare<O: Ops>(
    ops: O,
    settings: &TrainSettings,
    budget_bytes: Option<u64>,
    observer: &dyn Observer,
) -> Result<Prepared<O>> {
    let overrides = settings.overrides()?;
    let started = Instant::now();
    let base = resolve(&settings.model_name_or_path, observer)?;
    let before = resident_bytes().unwrap_or(0);
    let mut model = EmbeddingModel::load(ops, &base, &overrides, observer)?;
    let load_bytes = peak_memory_bytes().unwrap_or(0).saturating_sub(before);
    let loaded = Instant::now();
    settings.loss.validate_width(model.dim())?;
    settings.loss.notes(settings.normalized, model.dim()).iter().for_each(|note| observer.note(note));
    let examples = match settings.loss.name.reads() {
        Reads::Texts => read_examples(&settings.train_data, observer)?,
        _ => read_scored_examples(&settings.train_data, observer)?,
    };
    let data = FileRecord::of(&settings.train_data)?;
    let set = TrainingSet::new(&model, &examples, &settings.train_data, settings, observer)?;
    let set = match &settings.loss.guide_model {
        Some(guide) => guided(guide, &model, set, &examples, settings, observer)?,
        None => set,
    };
    drop(examples);
    let seconds =
        Seconds { load: (loaded - started).as_secs_f64(), data: loaded.elapsed().as_secs_f64(), ..Seconds::default() };
    let (forecast, settings) = forecast(&mut model, &set, settings, Limits { budget_bytes, load_bytes })?;
    forecast.lines(&settings).iter().for_each(|line| observer.note(line));
    Ok(Prepared { model, set, data, settings, forecast, seconds })
}

/// The set with the vectors of the model `guide`, which is there no longer than that takes.
fn guided<O: Ops>(
    guide: &str,
    trained: &EmbeddingModel<O>,
    set: TrainingSet,
    examples: &[Example],
    settings: &TrainSettings,
    observer: &dyn Observer,
) -> Result<TrainingSet> {
    observer.note(&format!("`--guide_model {guide}` embeds the texts"));
    let unit = Overrides { normalize: Some(true), ..Overrides::default() };
    let guide = EmbeddingModel::load_beside(trained, &resolve(guide, observer)?, &unit, observer)?;
    set.guided_by(&guide, examples, &settings.train_data, settings, observer)
}

struct Outcome {
    counts: Counts,
    losses: Losses,
    temperature: f64,
}

fn run_steps<O: Ops>(
    trainer: &mut Trainer<'_, O>,
    set: &TrainingSet,
    settings: &TrainSettings,
    folder: &mut RunFolder,
    seconds: &mut Seconds,
    observer: &dyn Observer,
) -> Result<Outcome> {
    let plan = *trainer.plan();
    if plan.n_rows_left_out() > 0 {
        observer.note(&format!(
            "the last {} rows of each epoch's order are no whole batch and are left out of it",
            plan.n_rows_left_out()
        ));
    }
    let mut counts = Counts::planned(&plan, set.texts.len(), trainer.model().parameters().n_values());
    let mut losses = Losses::default();
    observer.training_begins(&plan);
    let mut training = Duration::ZERO;
    let (mut window, mut window_began) = (Window::default(), Duration::ZERO);
    loop {
        let began = Instant::now();
        let Some(report) = trainer.step() else { break };
        let report = report?;
        training += began.elapsed();

        warn_of_empty_batches(&report, &counts, observer);
        counts.add(&report);
        window.add(&report);
        losses.last = report.loss;
        losses.first = if report.step == 1 { report.loss } else { losses.first };
        losses.mean += (report.loss - losses.mean) / report.step as f64;
        let per_step = training / report.step as u32;
        observer.step_done(&StepEvent {
            report: &report,
            total_steps: plan.total_steps,
            examples_per_s: counts.examples as f64 / training.as_secs_f64(),
            time_left: per_step * (plan.total_steps - report.step) as u32,
        });
        let is_last = report.step == plan.total_steps;
        if is_last || is_due(report.step, settings.logging_steps) {
            folder.log(&window.entry(&report, (training - window_began).as_secs_f64()))?;
            (window, window_began) = (Window::default(), training);
        }
        if !is_last && is_due(report.step, settings.save_steps) {
            let began = Instant::now();
            trainer.free_memory();
            let saved = folder.checkpoint(trainer.model(), report.step, settings.save_total_limit)?;
            seconds.checkpoints += began.elapsed().as_secs_f64();
            observer.saved(&saved);
        }
    }
    seconds.train = training.as_secs_f64();
    Ok(Outcome { counts, losses, temperature: trainer.temperature() })
}

fn is_due(step: usize, every: usize) -> bool {
    every > 0 && step.is_multiple_of(every)
}

/// Said once: the data itself leaves a batch without negatives, because its rows share their positives, say.
fn warn_of_empty_batches(report: &StepReport, before: &Counts, observer: &dyn Observer) {
    if report.stats.n_idle > 0 && before.queries_without_negative == 0 {
        observer.warn(&format!(
            "step {}: {} of {} queries have no negative in their batch and learn nothing from it; this is said once, and \
             counted in run.json",
            report.step,
            report.stats.n_idle,
            report.stats.n_queries
        ));
    }
}

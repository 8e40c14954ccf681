//! Training against sentence-transformers: the time of a step, its share of what the machine can multiply, peak memory; and ourselves
//! against ourselves: threads, large batches.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::data::{batches, first_rows, read_lines, text};
use super::options::{MINILM, Model, Options};
use super::process::{Peer, Took, number, numbers, read_json};
use super::record::{Record, Role, Sample, Work};
use super::setup::{Setup, build};

/// Steps that are left out at the start of a run: buffers and thread pools come into being, caches fill.
const WARM_UP: usize = 2;

/// How far losses, and relatively gradient norms, may be apart when both sides compute in f32: rounding, over the few steps of a
/// run. Measured on 16 steps: 9e-6 and 1.1e-4 (bench/runs/2026-11-23-zen4-2core).
const FP32_TOLERANCES: (f64, f64) = (5e-4, 5e-3);
/// The same where one side multiplies in bf16, whose numbers have 8 bits.
const BF16_TOLERANCES: (f64, f64) = (5e-2, 2e-1);

/// Its activations would take tens of GB at once.
const LARGE_BATCH: usize = 1024;
const LARGE_BATCH_BUDGET: &str = "2GB";

pub fn bench(setup: &Setup, options: &Options, record: &mut Record, root: &Path) -> Result<(), String> {
    build(root, &["--package", "embertune-kernels", "--example", "product_peak"])?;
    let bench = Bench { setup, options };
    let usual = &["step"];
    if options.wants("step", usual) {
        let mut peer = setup.runner.peer(options.threads)?;
        for &model in &options.models {
            let mut bf16_is_slow = false;
            for set in &options.sets {
                bench.steps(model, set, &mut peer, &mut bf16_is_slow, record)?;
            }
        }
    }
    for &model in &options.models {
        for set in &options.sets {
            if options.wants("memory", usual) {
                bench.memory(model, set, record)?;
            }
            if options.wants("threads", usual) {
                bench.thread_counts(model, set, record)?;
            }
        }
    }
    if options.wants("large_batch", usual) {
        bench.large_batch(record)?;
    }
    Ok(())
}

struct Bench<'a> {
    setup: &'a Setup,
    options: &'a Options,
}

/// A run of `embertune train`.
#[derive(Clone)]
struct Run {
    model: Model,
    rows: PathBuf,
    batch: usize,
    steps: usize,
    precision: &'static str,
    threads: usize,
    more: Vec<&'static str>,
}

/// What our binary did.
struct Trained {
    steps: Steps,
    took: Took,
    /// The precision that `auto` came to.
    computed: &'static str,
}

/// Which steps the peer makes, and how.
struct Ask {
    first: usize,
    dtype: &'static str,
    dropout: &'static str,
}

/// What the peer's steps took.
struct PeerSteps {
    steps: Steps,
    /// Sum over the texts of a step of their lengths squared, in tokens.
    squares: Vec<f64>,
}

/// What a run did, one entry per step.
#[derive(Debug, Default)]
struct Steps {
    losses: Vec<f64>,
    grad_norms: Vec<f64>,
    seconds: Vec<f64>,
    tokens: Vec<f64>,
}

impl Steps {
    /// Rows per second of the steps from `first` on.
    fn examples_per_s(&self, first: usize, batch: usize) -> f64 {
        let counted = &self.seconds[first..];
        (batch * counted.len()) as f64 / counted.iter().sum::<f64>()
    }
}

impl Bench<'_> {
    /// The checks, then the pairs, of one model on one set.
    fn steps(
        &self,
        model: Model,
        set: &str,
        peer: &mut Peer,
        bf16_is_slow: &mut bool,
        record: &mut Record,
    ) -> Result<(), String> {
        let steps = WARM_UP + self.counted_steps(model, set);
        let run = self.run(model, batches(self.setup, set, model.batch, steps)?, model.batch, steps);
        let work = |asked: &str| self.work("training step", model, set, format!("{asked} batch {}", run.batch));

        // Without dropout, since the two sides draw other masks. It is the peer's warm-up, too.
        let theirs = self.peer_steps(peer, &run, Ask { first: 0, dtype: "f32", dropout: "off" })?;
        let mut precisions = Vec::new();
        let mut asked = self.options.precisions.clone();
        if asked.is_empty() {
            asked.push("auto");
        }
        while let Some(&precision) = asked.get(precisions.len()) {
            let ours = self.embertune(&Run { precision, more: vec!["--dropout", "0"], ..run.clone() })?;
            check(&work(precision), &ours, &theirs.steps, record)?;
            precisions.push((precision, ours.computed));
            if self.options.precisions.is_empty() && asked.len() == 1 && ours.computed != "fp32" {
                asked.push("fp32");
            }
        }
        let best = self.best_dtype(peer, &run, &theirs, bf16_is_slow)?;

        let flops = step_flops(model, &theirs, WARM_UP);
        for pair in 1..=self.options.pairs {
            for &(asked, computed) in &precisions {
                let work = work(asked);
                let mut add =
                    |role, side: &str, value, unit| record.add(&work, pair, Sample::new(role, side, value, unit));
                let ours = self.embertune(&Run { precision: asked, ..run.clone() })?.steps;
                let seconds: f64 = ours.seconds[WARM_UP..].iter().sum();
                let side = format!("Embertune {computed}");
                add(Role::Subject, &side, ours.examples_per_s(WARM_UP, run.batch), "examples/s")?;
                add(Role::Alone, &side, ours.tokens[WARM_UP..].iter().sum::<f64>() / seconds, "tokens/s")?;
                add(Role::Subject, &side, flops / seconds / 1e9, "GFLOP/s")?;
                add(Role::Baseline, "the product's peak", self.product_peak(computed)?, "GFLOP/s")?;
                let dtype = if asked == "fp32" { "f32" } else { best };
                let theirs = self.peer_steps(peer, &run, Ask { first: WARM_UP, dtype, dropout: "as-is" })?.steps;
                let side = format!("sentence-transformers {dtype}");
                add(Role::Baseline, &side, theirs.examples_per_s(0, run.batch), "examples/s")?;
            }
        }
        Ok(())
    }

    /// The peer's faster type, by the first counted step. Where bf16 took more than twice as long on an earlier set, as it does where the
    /// CPU does not multiply it, it is not tried again.
    fn best_dtype(
        &self,
        peer: &mut Peer,
        run: &Run,
        in_f32: &PeerSteps,
        bf16_is_slow: &mut bool,
    ) -> Result<&'static str, String> {
        if *bf16_is_slow {
            return Ok("f32");
        }
        let run = Run { steps: WARM_UP + 1, ..run.clone() };
        let in_bf16 = self.peer_steps(peer, &run, Ask { first: WARM_UP - 1, dtype: "bf16", dropout: "off" })?;
        let (f32_seconds, bf16_seconds) = (in_f32.steps.seconds[WARM_UP], in_bf16.steps.seconds[1]);
        *bf16_is_slow = bf16_seconds > 2.0 * f32_seconds;
        eprintln!("bench: the peer's step takes {f32_seconds:.2} s in f32, {bf16_seconds:.2} s with bf16 autocast");
        Ok(if bf16_seconds < f32_seconds { "bf16" } else { "f32" })
    }

    /// The same rows, batch 32, a process of each side from start to end.
    fn memory(&self, model: Model, set: &str, record: &mut Record) -> Result<(), String> {
        const BATCH: usize = 32;
        let steps = if model.hidden > MINILM.hidden { 2 } else { 3 };
        let run = self.run(model, batches(self.setup, set, BATCH, steps)?, BATCH, steps);
        let work = self.work("peak memory of training", model, set, format!("{} batch {BATCH}", run.precision));
        // Memory does not vary as time does: two pairs show it.
        for pair in 1..=self.options.pairs.min(2) {
            let ours = self.embertune(&run)?.took;
            record.add(&work, pair, Sample::new(Role::Subject, "Embertune", ours.peak_mib, "MiB"))?;
            let theirs = self.sentence_transformers(&run)?;
            record.add(
                &work,
                pair,
                Sample::new(Role::Baseline, "sentence-transformers f32", theirs.peak_mib, "MiB"),
            )?;
        }
        Ok(())
    }

    /// All threads against one.
    fn thread_counts(&self, model: Model, set: &str, record: &mut Record) -> Result<(), String> {
        if self.options.threads == 1 {
            return Err("`--work threads` compares several threads with one: `--threads` is 1".into());
        }
        let steps = WARM_UP + self.counted_steps(model, set);
        let run = self.run(model, batches(self.setup, set, model.batch, steps)?, model.batch, steps);
        let work = self.work("training with threads", model, set, format!("{} batch {}", run.precision, run.batch));
        for pair in 1..=self.options.pairs {
            for (role, threads) in [(Role::Subject, self.options.threads), (Role::Baseline, 1)] {
                let rate = self.embertune(&Run { threads, ..run.clone() })?.steps.examples_per_s(WARM_UP, run.batch);
                let side = format!("Embertune {threads} threads");
                record.add(&work, pair, Sample::new(role, &side, rate, "examples/s"))?;
            }
        }
        Ok(())
    }

    /// A large batch in bounded memory against the usual batch: the counted step of the one has the rows of the counted steps of the
    /// other.
    fn large_batch(&self, record: &mut Record) -> Result<(), String> {
        let (set, usual) = ("debian-packages", MINILM.batch);
        let large = if self.options.quick { 4 * usual } else { LARGE_BATCH };
        let help = self.setup.runner.run(&self.setup.embertune, &["train".into(), "--help".into()], 1)?.1;
        if !help.contains("--memory_budget") {
            eprintln!("bench: SKIPPED large_batch: this build has no `--memory_budget`");
            return Ok(());
        }
        let run = self.run(MINILM, first_rows(self.setup, set, 2 * large)?, usual, 2 * large / usual);
        let of_large = Run { batch: large, steps: 2, more: vec!["--memory_budget", LARGE_BATCH_BUDGET], ..run.clone() };
        let work = self.work("large batch", MINILM, set, run.precision.into());
        for pair in 1..=self.options.pairs {
            for (role, run, warm_up) in [(Role::Subject, &of_large, 1), (Role::Baseline, &run, large / usual)] {
                let trained = self.embertune(run)?;
                let budget = if run.more.is_empty() { String::new() } else { format!(" in {LARGE_BATCH_BUDGET}") };
                let side = format!("Embertune batch {}{budget}", run.batch);
                let rate = trained.steps.examples_per_s(warm_up, run.batch);
                record.add(&work, pair, Sample::new(role, &side, rate, "examples/s"))?;
                record.add(&work, pair, Sample::new(role, &side, trained.took.peak_mib, "MiB"))?;
            }
        }
        Ok(())
    }

    /// Steps that are timed: about as many as make a pair last a minute on two cores, on which mpnet's steps on feedbackqa take 20 s and
    /// more. Three sets with five pairs stay near a quarter of an hour for each model.
    fn counted_steps(&self, model: Model, set: &str) -> usize {
        match (self.options.quick, model.hidden > MINILM.hidden, set) {
            (true, ..) => 1,
            (false, false, "debian-packages") => 6,
            (false, false, "cosqa") => 4,
            (false, false, _) => 2,
            (false, true, "debian-packages") => 2,
            (false, true, _) => 1,
        }
    }

    fn work(&self, what: &str, model: Model, set: &str, settings: String) -> Work {
        let (bench, what, set) = (self.options.kind.name().into(), what.into(), set.into());
        Work { bench, what, model: model.name.into(), set, settings }
    }

    fn output(&self) -> PathBuf {
        self.setup.cache.join("out/train")
    }

    /// The usual run, in the first precision that was asked for.
    fn run(&self, model: Model, rows: PathBuf, batch: usize, steps: usize) -> Run {
        let precision = self.options.precisions.first().copied().unwrap_or("auto");
        Run { model, rows, batch, steps, precision, threads: self.options.threads, more: Vec::new() }
    }

    /// Trains with our binary.
    fn embertune(&self, run: &Run) -> Result<Trained, String> {
        let folder = self.output();
        let mut arguments: Vec<String> = [
            "train --overwrite_output_dir True --train_group_size 2 --temperature 0.02 --learning_rate 2e-5",
            "--warmup_ratio 0.1 --query_max_len 64 --passage_max_len 256 --train_sampling_strategy sequential",
            "--dataloader_drop_last True --logging_steps 1 --save_steps 0 --seed 42",
        ]
        .iter()
        .flat_map(|part| part.split(' '))
        .map(String::from)
        .collect();
        let mut add = |name: &str, value: String| arguments.extend([name.to_string(), value]);
        add("--model_name_or_path", text(&self.setup.model(run.model)));
        add("--train_data", text(&run.rows));
        add("--output_dir", text(&folder));
        add("--per_device_train_batch_size", run.batch.to_string());
        add("--max_steps", run.steps.to_string());
        add("--precision", run.precision.to_string());
        add("--threads", run.threads.to_string());
        arguments.extend(run.more.iter().map(|word| word.to_string()));
        let (took, _) = self.setup.runner.run(&self.setup.embertune, &arguments, run.threads)?;
        let steps = read_log(&folder.join("log.jsonl"), run)?;
        let record = read_json(&folder.join("run.json"))?;
        let is_bf16 = record["settings"]["precision"].as_str() == Some("bf16");
        Ok(Trained { steps, took, computed: if is_bf16 { "bf16" } else { "fp32" } })
    }

    /// The peer's steps of `run`.
    fn peer_steps(&self, peer: &mut Peer, run: &Run, ask: Ask) -> Result<PeerSteps, String> {
        let answer = peer.ask(json!({
            "do": "train", "model": text(&self.setup.model(run.model)), "rows": text(&run.rows), "batch": run.batch,
            "first": ask.first, "last": run.steps, "dtype": ask.dtype, "dropout": ask.dropout,
        }))?;
        let steps = Steps {
            losses: numbers(&answer, "losses")?,
            grad_norms: numbers(&answer, "grad_norms")?,
            seconds: numbers(&answer, "seconds")?,
            tokens: numbers(&answer, "tokens")?,
        };
        Ok(PeerSteps { steps, squares: numbers(&answer, "squares")? })
    }

    /// Trains with sentence-transformers in a process of its own, as `bench/quality` does.
    fn sentence_transformers(&self, run: &Run) -> Result<Took, String> {
        let script = self.setup.runner.scripts.join("quality/st_train.py");
        let out = self.setup.cache.join("out/st");
        let mut arguments = vec![text(&script), text(&self.setup.model(run.model)), text(&run.rows), text(&out)];
        let options =
            format!("--batch {} --max-steps {} --threads {} --dropout as-is", run.batch, run.steps, run.threads);
        arguments.extend(options.split(' ').map(String::from));
        Ok(self.setup.runner.run(&self.setup.python, &arguments, run.threads)?.0)
    }

    /// GFLOP/s of our fastest matrix product.
    fn product_peak(&self, precision: &str) -> Result<f64, String> {
        let program = self.setup.examples.join("product_peak");
        let (_, said) = self.setup.runner.run(&program, &[], self.options.threads)?;
        let peaks: Value = serde_json::from_str(&said).map_err(|error| format!("product_peak: {error}: {said}"))?;
        number(&peaks, precision)
    }
}

/// The steps in the log of a run.
fn read_log(path: &Path, run: &Run) -> Result<Steps, String> {
    let mut steps = Steps::default();
    for line in read_lines(path)? {
        let entry: Value = serde_json::from_str(&line).map_err(|error| format!("{}: {error}", path.display()))?;
        // Other lines are of evaluations.
        let Ok(rate) = number(&entry, "examples_per_s") else { continue };
        let seconds = run.batch as f64 / rate;
        steps.losses.push(number(&entry, "loss")?);
        steps.grad_norms.push(number(&entry, "grad_norm")?);
        steps.seconds.push(seconds);
        steps.tokens.push(number(&entry, "tokens_per_s")? * seconds);
    }
    match steps.losses.len() == run.steps {
        true => Ok(steps),
        false => Err(format!("{} has {} steps of {}", path.display(), steps.losses.len(), run.steps)),
    }
}

/// The same batches give the same tokens, losses and gradients on both sides, without dropout.
fn check(work: &Work, ours: &Trained, theirs: &Steps, record: &mut Record) -> Result<(), String> {
    let (loss_tolerance, norm_tolerance) = if ours.computed == "fp32" { FP32_TOLERANCES } else { BF16_TOLERANCES };
    let steps = &ours.steps;
    let tokens = largest(&steps.tokens, &theirs.tokens, |a, b| (a - b).abs().round())?;
    let losses = largest(&steps.losses, &theirs.losses, |a, b| (a - b).abs())?;
    let norms = largest(&steps.grad_norms, &theirs.grad_norms, |a, b| (a - b).abs() / b)?;
    for (what, apart, allowed) in [
        ("largest difference of the real tokens of a step", tokens, 0.0),
        ("largest difference of the losses", losses, loss_tolerance),
        ("largest relative difference of the gradient norms", norms, norm_tolerance),
    ] {
        record.add(work, 0, Sample::new(Role::Check, "sentence-transformers f32", apart, what))?;
        if apart > allowed {
            return Err(format!(
                "{work}: {what} is {apart:.1e}, {allowed:.1e} is allowed: the sides do not compute the same\n  \
                 Embertune {steps:?}\n  sentence-transformers {theirs:?}"
            ));
        }
    }
    Ok(())
}

/// The largest of what `apart` says of each step.
fn largest(ours: &[f64], theirs: &[f64], apart: impl Fn(f64, f64) -> f64) -> Result<f64, String> {
    if ours.len() != theirs.len() {
        return Err(format!("Embertune made {} steps, the peer {}", ours.len(), theirs.len()));
    }
    Ok(ours.iter().zip(theirs).map(|(&a, &b)| apart(a, b)).fold(0.0, f64::max))
}

/// Floating-point operations of the matrix products of the steps from `first` on, on real tokens: the four projections of
/// attention and the two layers behind it, 12 * hidden^2 weights a layer, and the two products of attention; the backward has each
/// of them twice.
fn step_flops(model: Model, peer: &PeerSteps, first: usize) -> f64 {
    let (layers, hidden) = (model.layers as f64, model.hidden as f64);
    let tokens: f64 = peer.steps.tokens[first..].iter().sum();
    let squares: f64 = peer.squares[first..].iter().sum();
    3.0 * layers * (2.0 * 12.0 * hidden * hidden * tokens + 4.0 * hidden * squares)
}

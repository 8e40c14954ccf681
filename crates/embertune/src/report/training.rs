//! How the training went: loss, evaluations, learning rate, and what a batch looked like to the model.

use maud::html;

use super::chart::{self, Line};
use super::page::Section;
use super::run::{EvaluationLine, Run, StepLine};

/// The curves.
pub fn section(run: &Run) -> Option<Section> {
    let of_steps = |name: &str, value: fn(&StepLine) -> f64| Line {
        name: name.into(),
        points: run.log.steps.iter().map(|line| (line.step as f64, value(line))).collect(),
    };
    let of_evaluations = |name: &str, value: fn(&EvaluationLine) -> Option<f64>| {
        let points = run.log.evaluations.iter().filter_map(|line| Some((line.step as f64, value(line)?)));
        Line { name: name.into(), points: points.collect() }
    };
    let loss = vec![of_steps("training", |line| line.loss), of_evaluations("held-out rows", |line| line.scores.loss)];
    let metrics = vec![
        of_evaluations("MRR@10", |line| Some(line.scores.mrr10)),
        of_evaluations("nDCG@10", |line| Some(line.scores.ndcg10)),
        of_evaluations("Hit@1", |line| Some(line.scores.hit1)),
    ];
    let similarity = vec![
        of_steps("right passage", |line| line.positive_similarity),
        of_steps("closest wrong one", |line| line.hardest_negative_similarity),
    ];
    let charts = html! {
        (chart::lines("Loss", "step", &loss))
        (chart::lines("Held-out rows", "step", &metrics))
        (chart::lines("Learning rate", "step", &[of_steps("learning rate", |line| line.lr)]))
        (chart::lines("Right passage closest in its batch", "step", &[of_steps("share of queries", |line| line.in_batch_accuracy)]))
        (chart::lines("Similarity in the batch", "step", &similarity))
    };
    if charts.0.is_empty() {
        return None;
    }
    let step = run.facts.step_of_model;
    let body = html! {
        div class="charts" { (charts) }
        @if run.kept_base().is_none() && step > 0 && step < run.facts.counts.steps {
            p { "The model is that of step " (step) " of " (run.facts.counts.steps) ", the best on the held-out rows." }
        }
        @for step in &run.facts.resumed_after { p class="note" { "Interrupted and resumed after step " (step) "." } }
    };
    Some(Section { id: "training", title: "Training", body })
}

/// What is known of a run that was not compared.
pub fn in_a_sentence(run: &Run) -> String {
    let evaluations = &run.log.evaluations;
    let step = run.facts.step_of_model;
    match (evaluations.first(), evaluations.iter().rfind(|line| line.step == step)) {
        (Some(base), Some(tuned)) if base.step == 0 && tuned.step > 0 => format!(
            "while it trained, nDCG@10 on the held-out rows went from {:.4} to {:.4}; whether that is more than chance, `embertune compare` says",
            base.scores.ndcg10, tuned.scores.ndcg10
        ),
        _ => "whether the model is better than its base, `embertune compare` says".into(),
    }
}

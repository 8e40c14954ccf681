//! Losses in training: which rows they take, what they refuse, and that a model learns from each.

use std::fs;
use std::path::Path;

use embertune::data::{Example, Scores, read_scored_examples};
use embertune::embed::embed;
use embertune::loss::Directions;
use embertune::model::{EmbeddingModel, Overrides};
use embertune::progress::Silent;
use embertune::text::Role;
use embertune::train::loss_settings::{LossName, Reads};
use embertune::train::step::MicroBatch;
use embertune::train::{LossSettings, StepReport, TrainSettings, Trainer, TrainingSet};
use embertune_kernels::cpu::Cpu;

use crate::golden::golden;
use crate::said::Said;
use crate::training::take;

const TOPICS: [&str; 6] = ["cat", "wing", "flow", "paper", "heat", "shock"];

/// Six rows, each with a positive and two negatives.
fn examples(scores: impl Fn(usize) -> Scores) -> Vec<Example> {
    let row = |(i, topic): (usize, &&str)| Example {
        query: format!("{topic} {topic} speed"),
        positives: vec![format!("the {topic} of the library")],
        negatives: vec![format!("a package of {}", TOPICS[(i + 1) % 6]), format!("test {}", TOPICS[(i + 2) % 6])],
        scores: scores(i),
        line: i + 1,
    };
    TOPICS.iter().enumerate().map(row).collect()
}

fn teacher(i: usize) -> Scores {
    let i = i as f32;
    Scores::Teacher { positives: vec![1.0 + i / 10.0], negatives: vec![0.2 * i - 0.5, -0.3] }
}

/// Pairs with the scores 0 and 1, which the model does not tell apart yet.
fn pairs() -> Vec<Example> {
    let mut pairs = examples(|i| Scores::Pair(f32::from(i % 3 == 0)));
    pairs.iter_mut().for_each(|pair| pair.negatives.clear());
    pairs
}

fn settings(name: LossName) -> TrainSettings {
    let default = TrainSettings::default();
    TrainSettings {
        loss: LossSettings { name, ..LossSettings::default() },
        temperature: if name.has_temperature() { 0.2 } else { default.temperature },
        per_device_train_batch_size: 6,
        train_group_size: 3,
        learning_rate: 5e-4,
        max_steps: Some(8),
        dropout: Some(0.0),
        ..default
    }
}

fn model(settings: &TrainSettings) -> Option<EmbeddingModel<Cpu>> {
    let folder = golden("tiny-bert")?;
    Some(EmbeddingModel::load(Cpu::new(), &folder, &settings.overrides().unwrap(), &Silent).unwrap())
}

fn set(examples: &[Example], settings: &TrainSettings) -> Option<embertune::Result<TrainingSet>> {
    Some(TrainingSet::new(&model(settings)?, examples, Path::new("rows.jsonl"), settings, &Silent))
}

/// All steps of a run.
fn run(examples: &[Example], settings: &TrainSettings) -> Option<Vec<StepReport>> {
    let set = set(examples, settings)?.unwrap();
    let mut model = model(settings)?;
    let mut trainer = Trainer::new(&mut model, &set, settings).unwrap();
    Some(std::iter::from_fn(|| trainer.step()).map(Result::unwrap).collect())
}

#[test]
fn a_model_learns_from_every_loss() {
    for (name, _) in LossName::ALL {
        let rows = if name.takes_pairs() { pairs() } else { examples(teacher) };
        for matryoshka_dims in [vec![], vec![48, 12]] {
            let mut settings = settings(name);
            settings.normalized = name != LossName::MarginMse;
            settings.loss.matryoshka_dims = matryoshka_dims;
            let Some(steps) = run(&rows, &settings) else { return };
            let (first, last) = (&steps[0], &steps[7]);
            assert!(last.loss < 0.98 * first.loss, "{name}: {} to {}", first.loss, last.loss);
            assert!(first.stats.n_queries == 6 && first.stats.n_contrasted > 0, "{name}: {:?}", first.stats);
            assert_eq!(first.stats.n_idle, 0, "{name}");
        }
    }
}

#[test]
fn losses_of_cosines_do_not_depend_on_the_length_of_vectors() {
    for name in [LossName::CoSent, LossName::CosineMse, LossName::OnlineContrastive] {
        let loss = |normalized| {
            let settings = TrainSettings { normalized, ..settings(name) };
            Some(run(&pairs(), &settings)?[0].loss)
        };
        let (Some(unit), Some(free)) = (loss(true), loss(false)) else { return };
        assert!((unit - free).abs() < 1e-5 * unit.abs(), "{name}: {unit} {free}");
    }
}

#[test]
fn labels_of_rows_with_negatives_are_one_and_zero() {
    let settings = settings(LossName::Contrastive);
    let Some(set) = set(&examples(|_| Scores::None), &settings) else { return };
    let micro = MicroBatch::new(&set.unwrap(), &[0, 1], take(3, 0)).unwrap();
    assert_eq!(micro.scores, [1.0, 0.0, 0.0, 1.0, 0.0, 0.0]);
}

#[test]
fn scores_follow_the_texts_that_are_drawn_and_left_out() {
    let settings = settings(LossName::KlDiv);
    let mut rows = examples(teacher);
    rows[1].negatives[0] = format!("{}!", rows[1].positives[0].to_uppercase());
    let Some(set) = set(&rows, &settings) else { return };
    let set = set.unwrap();
    assert_eq!((set.rows.get(1).negatives.len(), set.rows.get(1).negative_scores), (1, &[-0.3][..]));
    for epoch in 0..4 {
        let micro = MicroBatch::new(&set, &[2], take(2, epoch)).unwrap();
        let drawn = micro.batch.ids[micro.batch.cu_seqlens[2] as usize..].to_vec();
        let place = set.rows.get(2).negatives.iter().position(|&text| set.texts.tokens(text).unwrap().ids == drawn);
        assert_eq!(micro.scores, [1.2, set.rows.get(2).negative_scores[place.unwrap()]]);
    }
}

#[test]
fn scores_that_are_no_cosines_are_refused_by_the_loss_that_makes_them_cosines() {
    let learns = settings(LossName::CosineMse);
    let scored = |score: f32| {
        let mut rows = pairs();
        rows[4].scores = Scores::Pair(score);
        rows
    };
    let taught = examples(|i| Scores::Teacher { positives: vec![1.0], negatives: vec![-1.0, [0.0, -2.5][i / 5]] });
    for (rows, message) in [
        (scored(5.0), "rows.jsonl:5: the row has the score 5, and `--loss cosine_mse`"),
        (taught, "rows.jsonl:6: the row has the score -2.5"),
    ] {
        let Some(result) = set(&rows, &learns) else { return };
        let error = result.err().unwrap();
        assert!(error.to_string().starts_with(message), "{error}");
        assert!(error.hint().unwrap().contains("`--loss cosent`"), "{error}");
        set(&rows, &settings(LossName::CoSent)).unwrap().unwrap();
    }
    // Cosines that are beyond 1 by their rounding.
    set(&scored(1.000_5), &learns).unwrap().unwrap();
    // Who is refused labels is not sent to the next refusal.
    for (score, sends) in [(0.5, true), (5.0, false)] {
        let error = set(&scored(score), &settings(LossName::Contrastive)).unwrap().err().unwrap();
        assert_eq!(error.hint().unwrap().contains("cosine_mse"), sends, "{error}");
    }
}

#[test]
fn rows_without_what_the_loss_reads_are_named() {
    let mut rows = examples(teacher);
    rows[3].scores = Scores::None;
    let mut scored = pairs();
    scored[4].scores = Scores::Pair(0.5);
    let mut unscored = pairs();
    unscored[3].scores = Scores::None;
    for (name, _) in LossName::ALL {
        let (rows, message, hint) = match name.reads() {
            Reads::Texts | Reads::PairScoresOrLabels => continue,
            Reads::TeacherScores => (&rows, "rows.jsonl:4: the row has no scores of a teacher", "`pos_scores`"),
            Reads::PairScores => (&unscored, "rows.jsonl:4: the row has no score", "`score`"),
            Reads::Labels => (&scored, "rows.jsonl:5: the pair has the score 0.5", "`--loss cosent`"),
        };
        let Some(result) = set(rows, &settings(name)) else { return };
        let error = result.err().unwrap();
        assert!(error.to_string().starts_with(message), "{name}: {error}");
        assert!(error.to_string().contains(&format!("`--loss {name}`")), "{error}");
        assert!(error.hint().unwrap().contains(hint), "{error}");
    }
}

#[test]
fn a_learnt_temperature_moves_and_a_fixed_one_stays() {
    let fixed = settings(LossName::InfoNce);
    let mut learnt = fixed.clone();
    learnt.loss.temperature_learning_rate = Some(0.1);
    let rows = examples(|_| Scores::None);
    let (Some(fixed), Some(learnt)) = (run(&rows, &fixed), run(&rows, &learnt)) else { return };
    assert!(fixed.iter().all(|step| step.temperature == 0.2));
    assert_eq!((learnt[0].temperature, learnt[0].loss), (0.2, fixed[0].loss));
    let moved = (learnt[1].temperature / 0.2).ln();
    // The first step of Adam, against the gradient.
    assert!((moved.abs() - 0.1).abs() < 1e-6 && moved * learnt[0].stats.d_log_temperature < 0.0, "{moved}");
    assert!(learnt[7].loss < fixed[7].loss);
}

#[test]
fn a_guide_has_a_vector_for_every_text_and_masks_by_it() {
    let mut settings = settings(LossName::InfoNce);
    settings.loss.directions = Directions::Gist;
    let rows = examples(|_| Scores::None);
    let (Some(set), Some(folder)) = (set(&rows, &settings), golden("tiny-mpnet")) else { return };
    let unit = Overrides { normalize: Some(true), ..Overrides::default() };
    let guide = EmbeddingModel::load(Cpu::new(), &folder, &unit, &Silent).unwrap();
    let set = set.unwrap().guided_by(&guide, &rows, &settings, &Silent).unwrap();
    let vectors = set.guide.as_ref().unwrap();
    for (text, role, number) in [
        (&rows[2].query, Role::Query, set.rows.get(2).query),
        (&rows[2].negatives[1], Role::Passage, set.rows.get(2).negatives[1]),
    ] {
        let alone = embed(&guide, &[text.as_str()], role, None, 1, &Silent).unwrap();
        let worst = alone.values.iter().zip(vectors.row(number as usize)).map(|(a, b)| (a - b).abs());
        assert!(worst.fold(0.0, f32::max) < 1e-5, "{text}");
    }
    let masked = |margin: f64, set: &TrainingSet| {
        let mut settings = settings.clone();
        settings.loss.guide_model = Some("guide".into());
        settings.loss.guide_margin = margin;
        let mut model = model(&settings).unwrap();
        Trainer::new(&mut model, set, &settings).unwrap().step().unwrap().unwrap().stats
    };
    let (little, much) = (masked(0.0, &set), masked(0.5, &set));
    assert!(little.n_masked_similar < much.n_masked_similar, "{little:?} {much:?}");
    assert_eq!(little.n_masked_similar + little.n_negatives, much.n_masked_similar + much.n_negatives);
}

#[test]
fn widths_beyond_the_model_are_refused() {
    let mut settings = settings(LossName::InfoNce);
    settings.loss.matryoshka_dims = vec![48, 64];
    let (Some(set), Some(mut model)) = (set(&examples(teacher), &settings), model(&settings)) else { return };
    let error = Trainer::new(&mut model, &set.unwrap(), &settings).err().unwrap();
    assert_eq!(error.to_string(), "`--matryoshka_dims` has 64, but the model's vectors have 48 numbers");
}

fn read(rows: &str) -> embertune::Result<Vec<Example>> {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), rows).unwrap();
    read_scored_examples(file.path(), &Said::default())
}

#[test]
fn scored_rows_are_read_in_all_their_forms() {
    let rows = read(concat!(
        r#"{"query": "q", "pos": ["a", "b"], "neg": ["c"], "pos_scores": [1, 2.5], "neg_scores": [-3]}"#,
        "\n",
        r#"{"query": "q", "pos": ["a"], "pos_scores": [1], "neg_scores": null}"#,
        "\n",
        r#"{"query": "q", "pos": "a", "score": 0.25}"#,
        "\n",
        r#"{"sentence1": "q", "sentence2": "a", "label": 1}"#,
        "\n",
        r#"{"query": "q", "pos": ["a"], "neg": ["b"]}"#,
    ))
    .unwrap();
    let teacher = |positives: &[f32], negatives: &[f32]| Scores::Teacher {
        positives: positives.to_vec(),
        negatives: negatives.to_vec(),
    };
    let scores: Vec<_> = rows.iter().map(|row| row.scores.clone()).collect();
    assert_eq!(
        scores,
        [teacher(&[1.0, 2.5], &[-3.0]), teacher(&[1.0], &[]), Scores::Pair(0.25), Scores::Pair(1.0), Scores::None]
    );
    assert!(rows.iter().all(|row| row.query == "q" && row.positives[0] == "a"));
}

#[test]
fn scores_that_do_not_fit_their_texts_are_named() {
    for (row, message) in [
        (r#"{"query": "q", "pos": ["a"], "pos_scores": [1, 2]}"#, "field `pos_scores` has 2 items, expected 1"),
        (r#"{"query": "q", "pos": ["a"], "neg": ["b"], "pos_scores": [1]}"#, "field `neg_scores` is missing"),
        (r#"{"query": "q", "pos": ["a"], "pos_scores": ["1"]}"#, "field `pos_scores` has a string, expected numbers"),
        (r#"{"query": "q", "pos": ["a"], "pos_scores": [1e99]}"#, "which is no f32"),
        (r#"{"query": "q", "pos": ["a"], "neg": ["b"], "score": 1}"#, "a query and 2 passages"),
    ] {
        let error = read(row).unwrap_err().to_string();
        assert!(error.contains(":1: ") && error.contains(message), "{row}: {error}");
    }
}

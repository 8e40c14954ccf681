//! The rules of mining beside the original's: sentence-transformers' limits against its own lists, near-duplicates, the review.

use std::collections::HashSet;

use embertune::data::{Row, StoredPool, TextId};
use embertune::embed::Vectors;
use embertune::mine::known::Numbered;
use embertune::mine::select::{Reason, Strategy};
use embertune::mine::{
    Limits, MadeVectors, MineSettings, Preset, Ranking, Review, Rule, VectorSource, Window, choose, mine,
};
use embertune::progress::{Progress, Silent};
use embertune::search::Hit;
use embertune_kernels::cpu::Cpu;
use serde_json::Value;

use crate::golden;
use crate::mining::{Done, examples, ranked, row, rows_of, with_negatives};
use crate::mining_sources::in_a_file;
use crate::said::Said;
use crate::search::{SCORE, vectors};

/// The call of `mine_hard_negatives` that made the golden lists.
fn st_margin() -> MineSettings {
    let preset = Preset::SentenceTransformers.settings();
    let limits = Limits { relative_margin: Some(0.05), max_score: Some(0.8), ..Limits::default() };
    let rule = Rule { window: Window::Survivors { min: 5, max: Some(50) }, limits, ..preset.rule };
    MineSettings { rule, n_negatives: 5, ..preset }
}

/// Rows and corpus of a golden set.
fn golden_rows(set: &str) -> Option<(Value, Vec<Row>, Vec<String>)> {
    let (golden, folder) = (golden::json("mining.json")?, golden::data(set)?);
    let data = crate::evaluation::Judged::read(&folder);
    let golden = golden["sets"][set].clone();
    let rows = golden["query_ids"].as_array().unwrap().iter().zip(golden["positives"].as_array().unwrap()).zip(1..);
    let rows = rows.map(|((id, positives), line)| {
        let positives: Vec<_> = rows_of(positives).iter().map(|&i| data.corpus[i as usize].as_str()).collect();
        row(&data.queries[id.as_str().unwrap()], &positives, line)
    });
    let rows = rows.collect();
    Some((golden, rows, data.corpus))
}

#[test]
fn sentence_transformers_lists_and_scores_from_the_golden_cranfield_vectors() {
    let Some(tensors) = golden::tensors("mining.safetensors") else { return };
    let Some((golden, rows, corpus)) = golden_rows("cranfield") else { return };
    let pool = StoredPool::new(&corpus).unwrap();
    let [queries, passages] = ["cranfield/queries", "cranfield/corpus"].map(|name| vectors(&tensors, name));
    let made = MadeVectors { queries: in_a_file("q.npy", &queries), passages: in_a_file("p.npy", &passages) };
    let of_corpus = Some(StoredPool::new(&corpus).unwrap());
    let mined = mine::<Cpu>(VectorSource::Made(made), &rows, of_corpus, None, &st_margin(), &Silent);
    let mined = Done::of(mined.unwrap());
    let (mut n_short, mut n_scores) = (0, 0);
    for (i, Row { example, .. }) in mined.rows.iter().enumerate() {
        let found: Vec<_> = example.negatives.iter().map(|text| pool.row(TextId::of(text)).unwrap()).collect();
        let (expected, scores) = (rows_of(&golden["rules"]["st_margin"][i]), &golden["st_margin_scores"][i]);
        assert_eq!(found.len(), expected.len(), "query {i}");
        for (nth, (&a, &b)) in found.iter().zip(&expected).enumerate() {
            let (score, expected) = (mined.scores[i].negatives[nth], scores[nth].as_f64().unwrap() as f32);
            assert!((score - expected).abs() <= SCORE, "query {i}: {score}, not {expected}");
            n_scores += 1;
            // Scores agree place by place: another row there is a neighbour closer than the tolerance.
            let neighbour = || expected_at(&expected_list(scores), score);
            assert!(a == b || neighbour(), "query {i}: {a}, not {b}");
        }
        n_short += usize::from(found.len() < 5);
    }
    assert_eq!((n_short, n_scores > 200), (81, true), "{n_scores} scores");
    assert_eq!(mined.chosen.n_rows_short, 81);
}

fn expected_list(scores: &Value) -> Vec<f32> {
    scores.as_array().unwrap().iter().map(|score| score.as_f64().unwrap() as f32).collect()
}

fn expected_at(scores: &[f32], score: f32) -> bool {
    scores.iter().filter(|&&other| (other - score).abs() <= SCORE).count() > 1
}

/// Only the first 50 ranks of SciFact are stored: they decide a query whose positives and five negatives are all among them.
#[test]
fn sentence_transformers_lists_of_scifact_as_far_as_the_golden_rankings_go() {
    let Some(tensors) = golden::tensors("mining.safetensors") else { return };
    let Some((golden, rows, corpus)) = golden_rows("scifact") else { return };
    let pool = StoredPool::new(corpus).unwrap();
    let [index, scores] = ["scifact/top50/index", "scifact/top50/scores"].map(|name| vectors(&tensors, name));
    let hits: Vec<Vec<Hit>> = (0..rows.len())
        .map(|i| index.row(i).iter().zip(scores.row(i)).map(|(&row, &score)| Hit { row: row as u32, score }).collect())
        .collect();
    let score_of = |i: usize, text: &String| {
        let row = pool.row(TextId::of(text));
        hits[i].iter().find(|hit| Some(hit.row) == row).map(|hit| hit.score)
    };
    let positives: Vec<Option<Vec<f32>>> = (rows.iter().enumerate())
        .map(|(i, row)| row.example.positives.iter().map(|text| score_of(i, text)).collect())
        .collect();
    let known: HashSet<_> = (0..rows.len()).filter(|&i| positives[i].is_some()).collect();
    let of_row = |(scores, row): (Option<Vec<f32>>, &Row)| scores.unwrap_or(vec![-1.0; row.example.positives.len()]);
    let positives = positives.into_iter().zip(&rows).flat_map(of_row).collect();
    let examples = examples(&rows);
    let numbered = Numbered::of(&examples, &pool).unwrap();
    let chosen = choose(&examples, numbered, ranked(hits, positives, 50), None, &st_margin()).unwrap();
    let mined = with_negatives(&rows, &pool, &chosen);
    let mut n_checked = 0;
    for (i, Row { example, .. }) in mined.iter().enumerate() {
        // Rows of one query share the lowest positive: all of them have to be known.
        let same = mined.iter().enumerate().filter(|(_, other)| other.example.query == example.query);
        if same.into_iter().all(|(j, _)| known.contains(&j)) && example.negatives.len() == 5 {
            let found: Vec<_> = example.negatives.iter().map(|text| pool.row(TextId::of(text)).unwrap()).collect();
            assert_eq!(found, rows_of(&golden["rules"]["st_margin"][i]), "query {i}");
            n_checked += 1;
        }
    }
    assert!(n_checked > 100, "{n_checked} of 200 queries were decided");
}

/// Mines by given scores: the vectors of `n` passages and of one query in one dimension.
fn by_scores(
    rows: Vec<Row>,
    texts: &[(&str, f32)],
    review: &Review,
    settings: &MineSettings,
    said: &dyn Progress,
) -> Done {
    let queries = Vectors::new(vec![1.0; rows.len()], 1);
    let passages = Vectors::new(texts.iter().map(|(_, score)| *score).collect(), 1);
    let made = MadeVectors { queries: in_a_file("q.npy", &queries), passages: in_a_file("p.npy", &passages) };
    let pool = StoredPool::new(texts.iter().map(|(text, _)| text)).unwrap();
    Done::of(mine::<Cpu>(VectorSource::Made(made), &rows, Some(pool), Some(review), settings, said).unwrap())
}

const TEXTS: [(&str, f32); 7] = [
    ("right", 0.9),
    ("right, too", 0.6),
    ("near", 0.59),
    ("hard", 0.5),
    ("harder", 0.56),
    ("easy", 0.2),
    ("easier", 0.1),
];

#[test]
fn the_margin_is_below_the_lowest_positive_of_all_rows_of_the_query() {
    let settings = MineSettings { n_negatives: 3, ..Preset::NvRetriever.settings() };
    let rows = vec![row("q", &["right"], 1), row(" q", &["right, too"], 2)];
    let mined = by_scores(rows, &TEXTS, &Review::default(), &settings, &Silent);
    for (row, positive) in mined.rows.iter().zip([0.9, 0.6]) {
        assert_eq!(row.example.negatives, ["harder", "hard", "easy"]);
        assert_eq!(mined.scores[row.example.line - 1].positives, [positive]);
    }
    assert_eq!(mined.scores[0].negatives, [0.56, 0.5, 0.2]);
    assert_eq!(mined.chosen.suspects.len(), 1, "the rows of one query have the same suspects");
    let suspect = &mined.chosen.suspects[0];
    assert_eq!((suspect.passage.as_str(), suspect.positive_score), ("near", Some(0.6)));
    assert_eq!(suspect.reason, Reason::RelativeMargin);
}

#[test]
fn survivors_are_passed_over_after_all_limits_and_ragged_rows_are_said() {
    let preset = Preset::SentenceTransformers.settings();
    let limits = Limits { max_score: Some(0.58), min_score: Some(0.15), ..Limits::default() };
    let rule = Rule { window: Window::Survivors { min: 1, max: Some(10) }, limits, ..preset.rule };
    let settings = MineSettings { rule, n_negatives: 3, ..preset };
    let said = Said::default();
    let rows = || vec![row("q", &["right", "right, too"], 1)];
    let mined = by_scores(rows(), &TEXTS, &Review::default(), &settings, &said);
    // Survivors: harder, hard, easy.
    assert_eq!(mined.rows[0].example.negatives, ["hard", "easy"]);
    assert_eq!(
        said.lines(),
        [
            "note: left out as maybe right answers: 1 candidates (max_score 1)",
            "warning: 1 of 1 rows have fewer than 3 negatives: too few candidates are left by the rules (0 rows have none)",
        ]
    );
    let shallow = Rule { window: Window::Survivors { min: 1, max: Some(4) }, ..settings.rule.clone() };
    let shallow = MineSettings { rule: shallow, ..settings.clone() };
    let said = Said::default();
    by_scores(rows(), &TEXTS, &Review::default(), &shallow, &said);
    assert!(said.lines()[1].ends_with("; `--range_max` says how far down is looked"), "{:?}", said.lines());
    // Filling up keeps to the limits, too: only the survivor that was passed over is left.
    let filled = Rule { fill_up: true, ..settings.rule.clone() };
    let mined = by_scores(rows(), &TEXTS, &Review::default(), &MineSettings { rule: filled, ..settings }, &Silent);
    assert_eq!(mined.rows[0].example.negatives, ["hard", "easy", "harder"]);
    assert_eq!((mined.chosen.n_random_negatives, mined.chosen.n_rows_short), (1, 0));
}

#[test]
fn spread_takes_one_of_every_so_many_ranks() {
    let texts: Vec<_> = (0..12).map(|i| format!("text {i}")).collect();
    let scored: Vec<_> = texts.iter().enumerate().map(|(i, text)| (text.as_str(), 1.0 - i as f32 / 20.0)).collect();
    let preset = Preset::SentenceTransformers.settings();
    let rule = Rule { strategy: Strategy::Spread, window: Window::Survivors { min: 2, max: Some(11) }, ..preset.rule };
    let settings = MineSettings { rule, n_negatives: 3, scores: false, ..preset };
    let mined = by_scores(vec![row("q", &["p"], 1)], &scored, &Review::default(), &settings, &Silent);
    assert_eq!(mined.rows[0].example.negatives, ["text 2", "text 5", "text 8"]);
    assert!(mined.scores.is_empty());
}

#[test]
fn near_duplicates_of_any_positive_are_left_out_whatever_their_score() {
    let positive = "Lzip compresses files without loss. It is safer than gzip and bzip2.";
    let texts = [
        (positive, 0.9),
        ("lzip compresses files, without loss! It is safer than GZIP and BZIP2", 0.5),
        ("It is safer than gzip and bzip2. Lzip compresses files without loss.", 0.4),
        ("Lzip reads files without loss. It is smaller than xz and lzma2.", 0.3),
    ];
    let settings = Preset::NvRetriever.settings();
    let mined = by_scores(vec![row("q", &[positive], 1)], &texts, &Review::default(), &settings, &Silent);
    assert_eq!(mined.rows[0].example.negatives, [texts[3].0]);
    assert_eq!(mined.chosen.n_suspects, [2, 0, 0, 0], "the first reason");
    let keep = Rule { exclude_near_duplicates: false, ..settings.rule.clone() };
    let keep = MineSettings { rule: keep, ..settings };
    let mined = by_scores(vec![row("q", &[positive], 1)], &texts, &Review::default(), &keep, &Silent);
    assert_eq!(mined.rows[0].example.negatives.len(), 3);
}

#[test]
fn what_the_review_says_is_followed_and_kept() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("review.jsonl");
    let settings = MineSettings { n_negatives: 3, ..Preset::NvRetriever.settings() };
    let texts = [("right", 0.6), ("a", 0.8), ("b", 0.7), ("c", 0.59), ("d", 0.5), ("e", 0.4), ("f", 0.3)];
    let mine = |review: &Review| by_scores(vec![row("q", &["right"], 1)], &texts, review, &settings, &Silent);

    let mut review = Review::read(&path).unwrap();
    let mined = mine(&review);
    assert_eq!(mined.rows[0].example.negatives, ["d", "e", "f"]);
    assert_eq!(review.add(&mined.chosen.suspects), 3);
    review.write(&path).unwrap();
    let written = std::fs::read_to_string(&path).unwrap();
    let first =
        r#"{"query":"q","passage":"a","score":0.8,"positive_score":0.6,"reason":"relative_margin","verdict":""}"#;
    assert_eq!((written.lines().next(), written.lines().count()), (Some(first), 3));

    let edited = written.replacen(r#""verdict":"""#, r#""verdict":"positive""#, 1);
    let edited = edited.replacen(r#""verdict":"""#, r#""verdict":"negative""#, 1);
    std::fs::write(&path, &edited).unwrap();
    let mut review = Review::read(&path).unwrap();
    let mined = mine(&review);
    assert_eq!(mined.rows[0].example.positives, ["right", "a"]);
    assert_eq!(mined.rows[0].example.negatives, ["b", "d", "e"]);
    assert!(mined.has_new_positives[0]);
    assert_eq!(review.add(&mined.chosen.suspects), 0, "what was there stays as it was");
    review.write(&path).unwrap();
    assert_eq!(std::fs::read_to_string(&path).unwrap(), edited);

    std::fs::write(&path, edited.replace("negative\"}", "maybe\"}")).unwrap();
    let error = Review::read(&path).unwrap_err();
    assert!(error.to_string().contains(r#"review.jsonl:2: the verdict is "maybe""#), "{error}");
    let again = edited.lines().next().unwrap().replace("positive\"}", "negative\"}");
    std::fs::write(&path, format!("{edited}{again}\n")).unwrap();
    let error = Review::read(&path).unwrap_err();
    let problem = r#"review.jsonl:4: the verdict is "negative", but "positive" in line 1 about the same passage"#;
    assert!(error.to_string().contains(problem) && error.hint().is_some(), "{error}");
}

#[test]
fn words_alone_rank_score_and_limit() {
    let rows = vec![row("split a pdf file", &["split a pdf file or join two"], 1)];
    let texts = ["split a pdf file or join two", "view a big old file", "split wood", "play music"];
    let settings = MineSettings { ranking: Ranking::Bm25, ..Preset::NvRetriever.settings() };
    let mine = |settings: &MineSettings| {
        mine::<Cpu>(VectorSource::Nowhere, &rows, Some(StoredPool::new(texts)?), None, settings, &Silent).map(Done::of)
    };
    let mined = mine(&settings).unwrap();
    assert_eq!(mined.rows[0].example.negatives, ["view a big old file", "split wood"]);
    assert!(mined.scores[0].positives[0] > mined.scores[0].negatives[0]);
    let error = mine(&MineSettings { ranking: Ranking::Hybrid, ..settings }).err().unwrap();
    assert!(error.to_string().starts_with("`--model_name_or_path` is missing"), "{error}");
}

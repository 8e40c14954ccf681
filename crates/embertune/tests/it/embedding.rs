//! Embedding many texts, and the ways from files to mined rows and to metrics, with a tiny model.

use std::path::PathBuf;

use embertune::data::{Example, Row, StoredPool, read_rows};
use embertune::embed::{Vectors, embed};
use embertune::eval::{EvalSettings, Metric, evaluate, queries_of};
use embertune::mine::output::{Shape, write};
use embertune::mine::{MineSettings, Rule, VectorSource, Window, mine};
use embertune::model::{EmbeddingModel, Overrides};
use embertune::progress::Silent;
use embertune::text::Role;
use embertune_kernels::cpu::Cpu;

use crate::golden;
use crate::mining::Done;
use crate::said::Said;

fn tiny_bert(overrides: &Overrides) -> Option<EmbeddingModel<Cpu>> {
    Some(EmbeddingModel::load(Cpu::new(), &golden::golden("tiny-bert")?, overrides, &Silent).unwrap())
}

/// Texts of many lengths, some of them equal.
fn texts() -> Vec<String> {
    let words = ["wing", "flow", "heat", "of", "the", "boundary", "layer", "shock"];
    let text = |i: usize| (0..1 + i * 7 % 23).map(|j| words[(i * 3 + j * 5) % 8]).collect::<Vec<_>>().join(" ");
    (0..60).map(|i| text(i % 45)).collect()
}

fn embedded(model: &EmbeddingModel<Cpu>, texts: &[String], role: Role, batch_size: usize) -> Vectors {
    let texts: Vec<_> = texts.iter().map(String::as_str).collect();
    embed(model, &texts, role, None, batch_size, &Silent).unwrap()
}

/// Golden README: embeddings of correct float32 programs differ by 2e-7; 5e-6 is allowed. A product of few rows sums in another
/// order than one of many, so a batch moves the last bits.
const EMBEDDING: f32 = 5e-6;

fn assert_equal_rows(actual: &[f32], expected: &[f32], what: &str) {
    assert_eq!(actual.len(), expected.len(), "{what}");
    let largest = actual.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(largest <= EMBEDDING, "{what}: differs by {largest}");
}

#[test]
fn vectors_are_in_the_order_of_the_texts_whatever_they_are_embedded_with() {
    let Some(model) = tiny_bert(&Overrides::default()) else { return };
    let texts = texts();
    let together = embedded(&model, &texts, Role::Passage, 256);
    assert_eq!((together.n_rows(), together.dim), (texts.len(), model.dim()));
    assert_equal_rows(&embedded(&model, &texts, Role::Passage, 3).values, &together.values, "batch size 3");
    for (i, text) in texts.iter().enumerate() {
        let alone = embedded(&model, std::slice::from_ref(text), Role::Passage, 1);
        assert_equal_rows(alone.row(0), together.row(i), text);
    }
}

#[test]
fn no_texts_have_no_vectors() {
    let Some(model) = tiny_bert(&Overrides::default()) else { return };
    assert_eq!(embedded(&model, &[], Role::Query, 8).n_rows(), 0);
}

#[test]
fn the_prompt_of_the_role_stands_in_front_of_every_text() {
    let overrides = Overrides { query_prompt: Some("flow of: ".into()), ..Overrides::default() };
    let (Some(plain), Some(prompted)) = (tiny_bert(&Overrides::default()), tiny_bert(&overrides)) else { return };
    let texts = texts();
    let by_hand: Vec<_> = texts.iter().map(|text| format!("flow of: {text}")).collect();
    let values = |model, texts: &[String], role| embedded(model, texts, role, 8).values;
    assert!(values(&prompted, &texts, Role::Query) == values(&plain, &by_hand, Role::Query));
    assert!(values(&prompted, &texts, Role::Passage) == values(&plain, &texts, Role::Passage));
}

#[test]
fn progress_counts_texts_and_those_that_are_too_long_are_counted_and_said() {
    let Some(model) = tiny_bert(&Overrides::default()) else { return };
    let texts = ["heat", "heat heat heat heat heat heat", "heat"];
    let said = Said::default();
    let vectors = embed(&model, &texts, Role::Query, Some(5), 8, &said).unwrap();
    assert_eq!((vectors.n_truncated, said.units()), (1, 3));
    assert_eq!(said.lines(), ["note: 1 of 3 queries (33.3 %) are longer than 5 tokens and are cut there"]);
}

/// The original's own example: 6 rows for training.
fn example_rows() -> Option<Vec<Row>> {
    let path: PathBuf = golden::data("intel-example/train.jsonl")?;
    Some(read_rows(&path, &Silent).unwrap())
}

/// The original's rule on these ranks.
fn ranks(range: std::ops::Range<usize>) -> MineSettings {
    let settings = MineSettings::default();
    MineSettings { rule: Rule { window: Window::Ranks(range), ..settings.rule }, ..settings }
}

#[test]
fn the_same_seed_mines_the_same_file_on_any_number_of_threads() {
    let (Some(model), Some(rows)) = (tiny_bert(&Overrides::default()), example_rows()) else { return };
    let folder = tempfile::tempdir().unwrap();
    let pool = texts();
    let mined = |n_threads| {
        let settings = MineSettings { n_negatives: 5, batch_size: 8, ..ranks(2..10) };
        let threads = rayon::ThreadPoolBuilder::new().num_threads(n_threads).build().unwrap();
        let path = folder.path().join("out.jsonl");
        threads.install(|| {
            let pool = StoredPool::new(&pool).unwrap();
            let mined = mine(VectorSource::Model(&model), &rows, Some(pool), None, &settings, &Silent).unwrap();
            assert!(mined.chosen.rows.iter().all(|row| row.negatives.len() == 5));
            write(&path, &mined, Shape::Original, 5, &Silent).unwrap();
        });
        std::fs::read_to_string(path).unwrap()
    };
    let first = mined(1);
    assert_eq!(first, mined(3));
    assert_eq!(first.lines().count(), rows.len());
}

#[test]
fn without_a_pool_the_candidates_are_the_passages_of_the_rows() {
    let (Some(model), Some(rows)) = (tiny_bert(&Overrides::default()), example_rows()) else { return };
    let settings = MineSettings { n_negatives: 100, ..ranks(0..3) };
    let passages: Vec<_> =
        rows.iter().flat_map(|row| row.example.positives.iter().chain(&row.example.negatives)).cloned().collect();
    let said = Said::default();
    let mined = Done::of(mine(VectorSource::Model(&model), &rows, None, None, &settings, &said).unwrap());
    assert_eq!(mined.chosen.n_rows_short, mined.rows.len(), "100 negatives are more than there are passages");
    for row in &mined.rows {
        assert!(row.example.negatives.iter().all(|negative| passages.contains(negative)));
        assert!(row.example.negatives.iter().all(|negative| !row.example.positives.contains(negative)));
    }
    assert!(said.lines().iter().any(|line| line.contains("fewer than 100 negatives")), "{:?}", said.lines());
}

#[test]
fn a_query_finds_itself_first() {
    let Some(model) = tiny_bert(&Overrides::default()) else { return };
    let texts = texts();
    let example = |text: &String| Example {
        query: text.clone(),
        positives: vec![text.clone()],
        negatives: vec![],
        line: 1,
        ..Example::default()
    };
    let queries = queries_of(&texts.iter().map(example).collect::<Vec<_>>(), &Silent);
    let said = Said::default();
    let settings = EvalSettings { cutoffs: vec![1, 10], batch_size: 16 };
    let result = evaluate(&model, &queries, texts, &settings, &said).unwrap();
    assert_eq!((result.n_queries, result.counts.n_candidates, result.counts.n_duplicate_candidates), (45, 45, 15));
    assert_eq!(result.mean(Metric::Mrr, 1), Some(1.0));
    assert_eq!(result.mean(Metric::Ndcg, 10), Some(1.0));
    assert_eq!(said.lines(), ["note: 15 candidates are equal to another one and count once"]);
}

#[test]
fn settings_that_cannot_work_are_errors() {
    let (Some(model), Some(rows)) = (tiny_bert(&Overrides::default()), example_rows()) else { return };
    let queries = queries_of(&[rows[0].example.clone()], &Silent);
    for cutoffs in [vec![], vec![0, 1]] {
        let settings = EvalSettings { cutoffs, ..EvalSettings::default() };
        let error = evaluate(&model, &queries, texts(), &settings, &Silent).unwrap_err();
        assert!(error.to_string().contains("cutoffs"), "{error}");
    }
    let settings = MineSettings { n_negatives: 0, ..MineSettings::default() };
    let error = mine(VectorSource::Model(&model), &rows, None, None, &settings, &Silent).err().unwrap();
    assert_eq!(error.to_string(), "`--negative_number 0`: at least 1 is needed");
}

//! Where candidates and scores come from, and the files that mining writes.

use std::path::Path;

use embertune::data::{Columns, Row, RowsOf, Stored, StoredPool, read_rows, store_rows};
use embertune::embed::Vectors;
use embertune::embed::files::{Format, ValueType, write_vectors};
use embertune::embed::stored::VectorFile;
use embertune::mine::output::{Shape, write};
use embertune::mine::{MadeVectors, MineSettings, Mined, Preset, Ranking, RowScores, VectorSource, mine};
use embertune::progress::{Progress, Silent};
use embertune::search::exact::PART_ROWS;
use embertune::{Error, Result};
use embertune_kernels::cpu::Cpu;

use crate::mining::{Done, row};
use crate::said::Said;

fn made(queries: &[[f32; 2]], passages: &[[f32; 2]]) -> VectorSource<'static, Cpu> {
    let [queries, passages] = [queries, passages].map(|rows| Vectors::new(rows.concat(), 2));
    VectorSource::Made(MadeVectors { queries: in_a_file("q.npy", &queries), passages: in_a_file("p.npy", &passages) })
}

/// `vectors` as a file, which is open and has no name any more.
pub fn in_a_file(name: &str, vectors: &Vectors) -> VectorFile {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    write_vectors(&path, Format::Npy, ValueType::F32, vectors).unwrap();
    VectorFile::open(&path).unwrap()
}

fn mine_texts<'a>(
    source: VectorSource<'_, Cpu>,
    rows: &'a dyn RowsOf<Row>,
    texts: &[&str],
    settings: &MineSettings,
) -> Result<Mined<'a>> {
    mine(source, rows, Some(StoredPool::new(texts)?), None, settings, &Silent)
}

#[test]
fn vectors_belong_to_the_texts_of_the_file_also_where_some_are_equal() {
    let settings = Preset::SentenceTransformers.settings();
    let passages = [[1.0, 0.0], [0.2, 0.0], [0.9, 0.0], [0.5, 0.0]];
    let rows = vec![row("q", &["p"], 1)];
    let mined = mine_texts(made(&[[1.0, 0.0]], &passages), &rows, &["p", "x", " p", "y"], &settings);
    let mined = Done::of(mined.unwrap());
    assert_eq!(mined.rows[0].example.negatives, ["y", "x"]);
    assert_eq!(mined.scores[0], RowScores { positives: vec![1.0], negatives: vec![0.5, 0.2] });
}

#[test]
fn a_pool_of_several_parts_is_searched_as_one_also_where_texts_are_equal() {
    // Every 1,000th text is equal to the one before it, with a vector that is the best of all and not used.
    let n = PART_ROWS + 2500;
    let is_copy = |i: &usize| i % 1000 == 999;
    let texts: Vec<_> = (0..n).map(|i| format!("t{}", if is_copy(&i) { i - 1 } else { i })).collect();
    let score = |i: usize| if is_copy(&i) { 9.0 } else { (i * 7919 % n) as f32 / n as f32 };
    let passages = in_a_file("p.npy", &Vectors::new((0..n).map(score).collect(), 1));
    let queries = in_a_file("q.npy", &Vectors::new(vec![1.0; 2], 1));
    let source: VectorSource<'_, Cpu> = VectorSource::Made(MadeVectors { queries, passages });
    // The best text of all, and one of the last part.
    let best = (0..n).filter(|i| !is_copy(i)).max_by_key(|i| i * 7919 % n).unwrap();
    let rows = vec![row("q", &[&texts[best]], 1), row("r", &[&texts[n - 2]], 2)];
    let settings = MineSettings { n_negatives: 50, ..Preset::SentenceTransformers.settings() };
    let mined = mine(source, &rows, Some(StoredPool::new(&texts).unwrap()), None, &settings, &Silent).unwrap();
    let mined = Done::of(mined);
    let mut expected: Vec<_> = (0..n).filter(|i| !is_copy(i)).collect();
    expected.sort_by_key(|i| std::cmp::Reverse(i * 7919 % n));
    for (mined, positive) in mined.rows.iter().zip([best, n - 2]) {
        let expected = expected.iter().filter(|&&i| i != positive).take(50).map(|&i| &texts[i]);
        assert!(mined.example.negatives.iter().eq(expected));
    }
    assert_eq!(mined.scores[1].positives, [score(n - 2)]);
}

#[test]
fn vectors_that_do_not_fit_are_refused_with_their_file() {
    let settings = Preset::SentenceTransformers.settings();
    let mine = |queries: &[[f32; 2]], passages: &[[f32; 2]], positive: &str| {
        let rows = vec![row("q", &[positive], 3)];
        let error: Error = mine_texts(made(queries, passages), &rows, &["p", "x"], &settings).err().unwrap();
        assert!(error.hint().is_some());
        error.to_string()
    };
    let two = [[1.0, 0.0], [0.5, 0.0]];
    let error = mine(&two, &two, "p");
    assert!(error.ends_with("q.npy: 2 vectors, but 1 rows in `--input_file`"), "{error}");
    let error = mine(&two[..1], &two[..1], "p");
    assert!(error.ends_with("p.npy: 1 vectors, but 2 candidates in `--candidate_pool`"), "{error}");
    assert!(mine(&two[..1], &two, "other").contains("the positive `other` of row 3 is not in `--candidate_pool`"));
}

#[test]
fn both_rankings_together_bring_candidates_that_one_alone_does_not() {
    // By vectors: near, far. By words: `words match` alone.
    let texts = ["p", "near", "far", "words match"];
    let passages = [[1.0, 0.0], [0.9, 0.0], [0.2, 0.0], [0.1, 0.0]];
    let rows = vec![row("words that match", &["p"], 1)];
    let preset = Preset::SentenceTransformers.settings();
    let mine = |ranking, n_negatives| {
        let settings = MineSettings { ranking, n_negatives, ..preset.clone() };
        Done::of(mine_texts(made(&[[1.0, 0.0]], &passages), &rows, &texts, &settings).unwrap())
    };
    assert_eq!(mine(Ranking::Dense, 2).rows[0].example.negatives, ["near", "far"]);
    let mined = mine(Ranking::Hybrid, 2);
    // 1/61 each for `p` and `words match`, 1/62 for `near`; scores are those of the vectors.
    assert_eq!(mined.rows[0].example.negatives, ["words match", "near"]);
    assert_eq!(mined.scores[0].negatives, [0.1, 0.9]);
}

fn rows() -> Vec<Row> {
    vec![row("q", &["p", "o"], 1), row("r", &["x", "y", "p"], 2)]
}

fn mined(rows: &dyn RowsOf<Row>, scores: bool) -> Mined<'_> {
    let preset = Preset::SentenceTransformers.settings();
    let settings = MineSettings { scores, n_negatives: 2, ..preset };
    let passages = [[1.0, 0.0], [0.75, 0.0], [0.5, 0.0], [0.25, 0.0]];
    mine_texts(made(&[[1.0, 0.0], [1.0, 0.0]], &passages), rows, &["p", "o", "x", "y"], &settings).unwrap()
}

fn written(path: &Path, mined: &Mined<'_>, shape: Shape, progress: &dyn Progress) -> Vec<String> {
    write(path, mined, shape, 2, progress).unwrap();
    std::fs::read_to_string(path).unwrap().lines().map(String::from).collect()
}

#[test]
fn every_shape_is_written_with_and_without_scores() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("out.jsonl");
    let said = Said::default();
    let lines = |scores, shape| written(&path, &mined(&rows(), scores), shape, &said);
    assert_eq!(
        lines(true, Shape::Original)[0],
        r#"{"query":"q","pos":["p","o"],"neg":["x","y"],"pos_scores":[1.0,0.75],"neg_scores":[0.5,0.25]}"#
    );
    assert_eq!(lines(false, Shape::Original)[1], r#"{"query":"r","pos":["x","y","p"],"neg":["o"]}"#);
    let triplets = lines(true, Shape::Triplet);
    assert_eq!(triplets.len(), 2 * 2 + 3);
    assert_eq!(triplets[1], r#"{"query":"q","positive":"p","negative":"y","scores":[1.0,0.25]}"#);
    assert_eq!(lines(false, Shape::Triplet)[4], r#"{"query":"r","positive":"x","negative":"o"}"#);
    assert_eq!(
        lines(true, Shape::NTuple),
        [
            r#"{"query":"q","positive":"p","negative_1":"x","negative_2":"y","scores":[1.0,0.5,0.25]}"#,
            r#"{"query":"q","positive":"o","negative_1":"x","negative_2":"y","scores":[0.75,0.5,0.25]}"#,
        ]
    );
    assert_eq!(said.lines(), ["warning: 1 rows are left out: a tuple needs 2 negatives"]);
    let pairs = lines(false, Shape::LabeledPair);
    assert_eq!((pairs.len(), pairs[1].as_str()), (8, r#"{"query":"q","passage":"o","label":1}"#));
    assert_eq!(pairs[7], r#"{"query":"r","passage":"o","label":0}"#);
    assert_eq!(lines(true, Shape::LabeledPair)[2], r#"{"query":"q","passage":"x","score":0.5}"#);
}

#[test]
fn written_rows_keep_their_other_fields_but_not_those_of_the_old_negatives() {
    let folder = tempfile::tempdir().unwrap();
    let [from, to] = ["in.jsonl", "out.jsonl"].map(|name| folder.path().join(name));
    let line =
        r#"{"id": 7, "neg": ["old"], "neg_scores": [0.5], "query": "caf\u00e9", "pos": "p", "prompt": {"a": null}}"#;
    std::fs::write(&from, line).unwrap();
    let rows = read_rows(&from, &Silent).unwrap();
    let negatives = ["new \"1\"", "new\n2"];
    let settings = MineSettings { scores: false, n_negatives: 2, ..Preset::SentenceTransformers.settings() };
    let mined = mine_texts(made(&[[1.0, 0.0]], &[[1.0, 0.0], [0.5, 0.0]]), &rows, &negatives, &settings).unwrap();
    let said = Said::default();
    assert_eq!(
        written(&to, &mined, Shape::Original, &said),
        [
            "{\"id\":7,\"neg\":[\"new \\\"1\\\"\",\"new\\n2\"],\"query\":\"caf\u{e9}\",\"pos\":[\"p\"],\"prompt\":{\"a\":null}}"
        ]
    );
    let warning = "warning: field `neg_scores` is left out of 1 rows: it belongs to the negatives that were replaced";
    assert_eq!(said.lines(), [warning]);
    assert_eq!(read_rows(&to, &Silent).unwrap()[0].example.negatives, negatives);
}

#[test]
fn mining_reads_rows_from_the_store_and_writes_the_same_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("rows.jsonl");
    let line = |i: usize| {
        let number = 1.1 * i as f64 + 1e-7;
        format!(
            r#"{{"n": {number}, "pos": "p{i} \u2028 {}", "x": [null, {{"b": 1, "a": "{}"}}], "query": "q{}", "neg": ["n{i}"], "neg_scores": [1]}}"#,
            "word ".repeat(i % 9),
            "\u{e9}".repeat(3000),
            i / 2
        )
    };
    // More than a store keeps in memory.
    std::fs::write(&path, (1..4000).map(line).collect::<Vec<_>>().join("\n")).unwrap();
    let settings = MineSettings { ranking: Ranking::Bm25, ..Preset::NvRetriever.settings() };
    let rows = read_rows(&path, &Silent).unwrap();
    let stored: Stored<Row> = store_rows(&path, &Columns::default(), &Silent).unwrap();
    let lines = |rows: &dyn RowsOf<Row>| {
        let mined = mine::<Cpu>(VectorSource::Nowhere, rows, None, None, &settings, &Silent).unwrap();
        written(&folder.path().join("out.jsonl"), &mined, Shape::Original, &Silent)
    };
    assert!(lines(&rows) == lines(&stored));
}

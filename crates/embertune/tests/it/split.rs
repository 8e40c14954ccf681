//! Splitting rows: what stays together, how near the shares are met, and what the files hold.

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::path::Path;

use embertune::data::Columns;
use embertune::data::split::{Side, Split, SplitSettings, Splitter};
use embertune::data::split_files::split_files;
use embertune::progress::Silent;

use crate::said::Said;

/// A query that is near to no other.
fn query(i: usize) -> String {
    let words = ["amber", "birch", "cedar", "dune", "ember", "frost", "grove", "heath", "islet", "jetty", "knoll"];
    let number = i * 7919 + 13;
    format!("{} {} {} {number:07}", words[i % 11], words[i / 11 % 11], words[number % 11])
}

fn split(rows: &[(String, Vec<String>)], settings: &SplitSettings) -> Split {
    let mut splitter = Splitter::default();
    for (query, positives) in rows {
        splitter.add(query, positives.iter().map(String::as_str));
    }
    splitter.split(settings).unwrap()
}

/// The side of each row, where all are on one.
fn sides(split: &Split) -> Vec<Side> {
    split.sides.iter().map(|side| side.unwrap()).collect()
}

/// 200 queries: some with rows and near-duplicates of their own, some in threes around a positive, all with one of two labels.
fn rows() -> Vec<(String, Vec<String>)> {
    let mut rows = Vec::new();
    for i in 0..200 {
        let label = format!("label {}", i % 2);
        rows.push((query(i), vec![format!("passage {}", if i < 60 { i / 3 } else { i }), label.clone()]));
        if i % 10 == 0 {
            rows.push((query(i), vec![format!("passage of a second row {i}")]));
            rows.push((format!("{}?", query(i).to_uppercase()), vec![label]));
        }
    }
    rows
}

#[test]
fn what_is_tested_elsewhere_is_on_no_side() {
    let rows = rows();
    let folder = tempfile::tempdir().unwrap();
    let [data, tested] = ["rows.jsonl", "tested.jsonl"].map(|name| folder.path().join(name));
    let line = |query: &str, pos: &[String]| format!("{}\n", serde_json::json!({"query": query, "pos": pos}));
    fs::write(&data, rows.iter().map(|(query, pos)| line(query, pos)).collect::<String>()).unwrap();
    // Query 0 is there in two spellings and three rows, query 3 once; nobody asks the last one.
    let asked = [query(0), format!("{}!", query(3)), "what nobody asks".into()];
    fs::write(&tested, asked.iter().map(|query| line(query, &["a passage".into()])).collect::<String>()).unwrap();
    let settings = SplitSettings { apart_from: Some(tested.clone()), ..SplitSettings::default() };
    let said = Said::default();
    let out = folder.path().join("out");
    let made = split_files(&data, &Columns::default(), &out, &settings, &said).unwrap();
    assert_eq!((made.summary.n_apart, made.summary.n_rows.iter().sum::<usize>()), (3, rows.len() - 4));
    let remark = format!("note: 3 queries are in {}, or nearly: their rows are left out", tested.display());
    assert!(said.lines().contains(&remark), "{:?}", said.lines());
    let written: String = made.files.iter().map(|(_, path)| fs::read_to_string(path).unwrap()).collect();
    for gone in [query(0), query(0).to_uppercase(), query(3)] {
        assert!(!written.contains(&gone), "{gone}");
    }
    assert!(written.contains(&query(1)));
    let settings = SplitSettings { apart_from: Some(data.clone()), ..settings };
    let error = split_files(&data, &Columns::default(), &folder.path().join("none"), &settings, &Silent).unwrap_err();
    assert!(error.to_string().contains("all 220 different queries"), "{error}");
}

#[test]
fn equal_and_near_queries_and_shared_positives_are_on_one_side_and_labels_on_all() {
    let rows = rows();
    let whole = split(&rows, &SplitSettings::default());
    let (sides, summary) = (sides(&whole), &whole.summary);
    let mut side_of: HashMap<String, BTreeSet<u8>> = HashMap::new();
    for ((query, positives), side) in rows.iter().zip(&sides) {
        side_of.entry(query.to_lowercase().trim_end_matches('?').to_string()).or_default().insert(*side as u8);
        for positive in positives {
            side_of.entry(positive.clone()).or_default().insert(*side as u8);
        }
    }
    for (text, sides) in side_of {
        assert_eq!(sides.len(), if text.starts_with("label") { 3 } else { 1 }, "{text}: {sides:?}");
    }
    assert_eq!(summary.n_labels, 2);
    // 20 queries are there in two spellings; the first 60 are 20 groups of three.
    assert_eq!((summary.n_near, summary.n_sharing), (40, 60));
    assert_eq!((summary.n_groups, summary.n_grouped, summary.largest_group), (20 + 14, 60 + 6 + 28, 4));
    assert!((1..summary.n_grouped).contains(&summary.n_moved), "{summary:?}");
}

#[test]
fn the_shares_are_met_and_depend_on_the_seed_alone() {
    let rows = rows();
    let settings = SplitSettings::default();
    let first = split(&rows, &settings);
    assert_eq!(first.summary.n_queries, [176, 22, 22]);
    assert_eq!(first.summary.n_rows.iter().sum::<usize>(), rows.len());
    assert_eq!(split(&rows, &settings), first);

    let turned: Vec<_> = rows.iter().rev().cloned().collect();
    let sides: Vec<_> = split(&turned, &settings).sides.into_iter().rev().collect();
    assert_eq!(sides, first.sides, "the order of the rows changes nothing");
    assert_ne!(split(&rows, &SplitSettings { seed: 43, ..settings.clone() }).sides, first.sides);

    let without_dev = split(&rows, &SplitSettings { dev: 0.0, ..settings });
    assert!(!without_dev.sides.contains(&Some(Side::Dev)));
}

#[test]
fn a_group_larger_than_a_share_is_in_train_and_said() {
    let mut rows: Vec<_> = (0..60).map(|i| (query(i), vec![format!("passage {i}")])).collect();
    rows.extend((60..100).map(|i| (query(i), vec!["the same".to_string()])));
    let settings = SplitSettings { max_queries_per_positive: 50, ..SplitSettings::default() };
    let Split { sides, summary } = split(&rows, &settings);
    assert!(sides[60..].iter().all(|side| *side == Some(Side::Train)));
    assert_eq!((summary.n_queries, summary.n_too_large, summary.largest_group), ([80, 10, 10], 1, 40));
    assert!(
        summary
            .remarks(&settings)
            .iter()
            .any(|remark| remark.contains("for this reason: 1; the largest has 40 queries"))
    );
    // As a label the positive ties nothing.
    let Split { sides, summary } = split(&rows, &SplitSettings::default());
    assert!(sides[60..].contains(&Some(Side::Test)));
    assert_eq!((summary.n_groups, summary.n_labels), (0, 1));
}

#[test]
fn shares_that_cannot_be_are_refused() {
    let rows: Vec<_> = (0..6).map(|i| (query(i), vec![format!("passage {}", i / 3)])).collect();
    for (dev, test, problem) in [
        (1.0, 0.1, "`--dev 1`: expected a share from 0 to 1"),
        (0.0, f64::NAN, "`--test NaN`"),
        (0.5, 0.5, "`--dev 0.5 --test 0.5` of 6 different queries leaves none to train on"),
        (0.0, 0.1, "no group of queries fits into test, 1 of 6 queries"),
    ] {
        let mut splitter = Splitter::default();
        rows.iter().for_each(|(query, positives)| splitter.add(query, positives.iter().map(String::as_str)));
        let error = splitter.split(&SplitSettings { dev, test, ..SplitSettings::default() }).unwrap_err();
        assert!(error.to_string().contains(problem), "{error}");
        assert!(error.hint().is_some());
    }
}

/// The lines of all files of a folder, sorted.
fn lines(folder: &Path) -> Vec<String> {
    let files = fs::read_dir(folder).unwrap().map(|entry| fs::read_to_string(entry.unwrap().path()).unwrap());
    let mut lines: Vec<_> = files.flat_map(|text| text.lines().map(String::from).collect::<Vec<_>>()).collect();
    lines.sort();
    lines
}

#[test]
fn rows_keep_their_bytes_and_nothing_is_overwritten() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let mut rows: Vec<_> = (0..30)
        .map(|i| format!(r#"{{ "id":{i}.0,  "query": "{}", "pos": ["caf\u00e9 {i}"],"x" :[1e3 ]}}"#, query(i)))
        .collect();
    fs::write(path("rows.jsonl"), rows.join("\n")).unwrap();
    let columns = Columns::default();
    let said = Said::default();
    let made = split_files(&path("rows.jsonl"), &columns, &path("out"), &SplitSettings::default(), &said).unwrap();
    assert_eq!(made.files.len(), 3);
    assert!(
        said.lines()[0].ends_with("rows.jsonl: JSON lines, columns id, query, pos, x; 30 rows"),
        "{:?}",
        said.lines()
    );
    rows.sort();
    assert_eq!(lines(&path("out")), rows);
    let again =
        split_files(&path("rows.jsonl"), &columns, &path("out"), &SplitSettings::default(), &Silent).unwrap_err();
    assert!(again.to_string().contains("the folder is not empty"), "{again}");
    assert_eq!(lines(&path("out")), rows);

    let records: Vec<_> = (0..30).map(|i| format!("\"{}\" , ,\"line\nbreak {i}\"", query(i))).collect();
    fs::write(path("rows.csv"), format!("question,other,answer\n{}", records.join("\n"))).unwrap();
    let columns: Columns = "query=question,pos=answer".parse().unwrap();
    let error = split_files(&path("rows.csv"), &columns, &path("csv"), &SplitSettings::default(), &Silent).unwrap_err();
    assert!(error.to_string().contains("rows.csv:2: text after the closing quotation mark"), "{error}");
    assert!(!path("csv").exists());
    let records: Vec<_> = (0..30).map(|i| format!("\"{}\", ,\"line\nbreak {i}\"\n", query(i))).collect();
    fs::write(path("rows.csv"), format!("question,other,answer\n{}", records.concat())).unwrap();
    split_files(&path("rows.csv"), &columns, &path("csv"), &SplitSettings::default(), &Silent).unwrap();
    let all: String = ["train", "dev", "test"]
        .map(|side| fs::read_to_string(path("csv").join(format!("{side}.csv"))).unwrap())
        .map(|text| text.strip_prefix("question,other,answer\n").unwrap().to_string())
        .concat();
    assert!(records.iter().all(|record| all.contains(record)) && all.len() == records.concat().len());
}

#[test]
fn a_wrong_answer_that_queries_share_ties_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("pairs.csv");
    let pairs = |i: usize| format!("{0},right {i},1\n{0},wrong {1},0\n", query(i), i / 10);
    fs::write(&path, format!("query,passage,label\n{}", (0..30).map(pairs).collect::<String>())).unwrap();
    let settings = SplitSettings::default();
    let made = split_files(&path, &Columns::default(), &folder.path().join("out"), &settings, &Silent).unwrap();
    assert_eq!((made.summary.n_sharing, made.summary.n_queries), (0, [24, 3, 3]));
    assert_eq!(made.summary.n_rows, [48, 6, 6]);
}

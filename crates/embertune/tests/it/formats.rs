//! Data files of every form give the same rows, and what is broken in them is said with its place.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use embertune::data::convert::{RowShape, Target, convert};
use embertune::data::source::Form;
use embertune::data::split::SplitSettings;
use embertune::data::split_files::split_files;
use embertune::data::{
    Columns, Example, RowsOf, Scores, StoredExamples, read_examples, read_examples_by, read_pool_by, read_rows,
    read_rows_by, read_scored_examples, store_examples, store_scored_examples,
};
use embertune::progress::Silent;

use crate::said::Said;

/// Tiny files, made by `make.py` in this folder with pandas and pyarrow.
fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data").join(name)
}

/// What a row says, without its place.
fn texts(rows: Vec<Example>) -> Vec<(String, Vec<String>, Vec<String>, Scores)> {
    rows.into_iter().map(|row| (row.query, row.positives, row.negatives, row.scores)).collect()
}

fn packed(text: &str) -> Vec<u8> {
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(text.as_bytes()).unwrap();
    gzip.finish().unwrap()
}

#[test]
fn triplets_of_every_form_are_the_same_rows_and_the_form_is_said() {
    let expected = texts(read_examples(&fixture("triplets.jsonl"), &Silent).unwrap());
    assert_eq!(expected.len(), 4);
    assert_eq!(expected[1].1, ["\"pdftk\", a tool\nthat splits; and joins"]);
    for (name, form) in [
        ("triplets.json", "JSON list"),
        ("triplets.csv", "CSV"),
        ("triplets.semicolon.csv", "CSV"),
        ("triplets.index.tsv", "TSV"),
        ("triplets.csv.gz", "CSV in gzip"),
        ("triplets.csv.zst", "CSV in zstd"),
        ("triplets", "2 files (train-00000-of-00002.jsonl, train-00001-of-00002.jsonl), JSON lines"),
    ] {
        let said = Said::default();
        assert_eq!(texts(read_examples(&fixture(name), &said).unwrap()), expected, "{name}");
        let [line] = &said.lines()[..] else { panic!("{name}: {:?}", said.lines()) };
        assert!(line.contains(&format!("{name}: {form}")) && line.ends_with("; 4 rows"), "{line}");
    }
}

#[test]
fn tuples_scores_and_labels_are_read_from_tables() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.csv");
    let read = |text: &str| {
        fs::write(&path, text).unwrap();
        read_scored_examples(&path, &Silent).map(|rows| rows.into_iter().next().unwrap())
    };
    let tuple = read("query,positive,negative_1,negative_2,negative_3\nq,p,a,,b\n").unwrap();
    assert_eq!((tuple.line, tuple.negatives), (2, vec!["a".to_string(), "b".to_string()]));
    assert_eq!(read("sentence1,sentence2,score\na,b,4.5\n").unwrap().scores, Scores::Pair(4.5));
    assert_eq!(read("query,passage,label\na,b,0\n").unwrap().scores, Scores::Pair(0.0));
    let lists = read("query,pos,neg,pos_scores,neg_scores\nq,\"[\"\"a\"\",\"\"b\"\"]\",c,\"[1,2]\",[3]\n").unwrap();
    assert_eq!((lists.positives.len(), lists.negatives), (2, vec!["c".to_string()]));
    assert_eq!(lists.scores, Scores::Teacher { positives: vec![1.0, 2.0], negatives: vec![3.0] });
    let error = read("sentence1,sentence2,score\na,b,high\n").unwrap_err();
    assert!(error.to_string().contains("a.csv:2: field `score` has a string, expected a number"), "{error}");
}

#[test]
fn texts_with_the_label_zero_are_negatives_of_their_query_and_no_right_answers() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.csv");
    let said = Said::default();
    let read = |text: &str| {
        fs::write(&path, text).unwrap();
        read_examples(&path, &said)
    };
    let lists = |rows: Vec<Example>| rows.into_iter().map(|row| (row.query, row.positives, row.negatives));
    let row = |query: &str, positive: &str, negatives: &[&str]| {
        (query.to_string(), vec![positive.to_string()], negatives.iter().map(|text| text.to_string()).collect())
    };
    let text = "query,passage,label\nq,a,0\nq,b,1\nr,b,1\nq,c,1\nq,d,0\ns,a,0\n";
    let expected = [row("q", "b", &["a", "d"]), row("r", "b", &[]), row("q", "c", &["a", "d"])];
    assert!(lists(read(text).unwrap()).eq(expected.clone()));
    let lines = said.lines().join("\n");
    assert!(lines.contains("which of the 6 pairs are right: 3 rows, the 3 wrong ones are negatives"), "{lines}");
    assert!(lines.contains("1 queries have no right pair") && !lines.contains("not used"), "{lines}");
    let rows = read_rows(&path, &Silent).unwrap();
    assert_eq!(serde_json::json!(rows[0].fields).to_string(), r#"{"query":"q","pos":["b"],"neg":["a","d"]}"#);
    assert!(lists(rows.into_iter().map(|row| row.example).collect()).eq(expected));

    let error = read("query,passage,label\nq,a,0\n").unwrap_err();
    assert!(error.to_string().contains("every `label` is 0") && error.hint().is_some(), "{error}");
    // Another kind of label says nothing about answers.
    for other in ["query,passage,label\nq,a,0\nr,b,2\n", "query,passage,label\nq,a,0\nr,b,\n"] {
        assert_eq!(read(other).unwrap().len(), 2);
    }
}

#[test]
fn columns_are_named_by_the_user_and_a_missing_one_says_how() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("faq.csv");
    fs::write(&path, "id,question,answer\n1,q,a\n2,r,\n").unwrap();
    let error = read_examples(&path, &Silent).unwrap_err();
    assert!(
        error.to_string().ends_with("faq.csv:2: field `query` is missing; found `id`, `question`, `answer`"),
        "{error}"
    );
    assert!(error.hint().unwrap().contains("--columns query=..."));
    let columns: Columns = "query=question,pos=answer".parse().unwrap();
    let error = read_examples_by(&path, &columns, &Silent).unwrap_err();
    assert!(error.to_string().ends_with("faq.csv:3: field `answer` is an empty string"), "{error}");
    let columns: Columns = "query=question,pos=anwser".parse().unwrap();
    let error = read_examples_by(&path, &columns, &Silent).unwrap_err();
    let problem = "column `anwser`, which is `pos` by `--columns`, is missing; found `id`, `question`, `answer`";
    assert!(error.to_string().ends_with(&format!("faq.csv:2: {problem}")) && error.hint().is_some(), "{error}");
    let columns: Columns = "text=answer,title=question".parse().unwrap();
    fs::write(&path, "id,question,answer\n1,q,a\n").unwrap();
    assert_eq!(read_pool_by(&path, &columns, &Silent).unwrap(), ["q a"]);
}

#[test]
fn a_named_column_that_no_row_has_is_said_unless_it_is_of_other_files() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("faq.jsonl");
    fs::write(&path, "{\"q\": \"a\", \"pos\": \"b\"}\n{\"q\": \"c\", \"pos\": \"d\", \"wrong\": \"e\"}\n").unwrap();
    let said = |columns: &str| {
        let said = Said::default();
        read_rows_by(&path, &columns.parse().unwrap(), &said).unwrap();
        said.lines().into_iter().filter(|line| line.contains("--columns")).collect::<Vec<_>>()
    };
    assert_eq!(said("query=q,neg=wrong,text=body"), [""; 0]);
    let [line] = &said("query=q,neg=worng,text=body")[..] else { panic!() };
    assert!(line.starts_with("warning: ") && line.contains("no row has the column `worng`"), "{line}");
    let texts = Said::default();
    let columns: Columns = "query=other,text=q,title=name".parse().unwrap();
    read_pool_by(&path, &columns, &texts).unwrap();
    assert!(texts.lines().join("").contains("`name`") && !texts.lines().join("").contains("other"));
}

#[test]
fn a_field_without_a_value_is_not_called_missing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.jsonl");
    for (row, field) in [
        (r#"{"query": null, "pos": ["p"]}"#, "query"),
        (r#"{"query": "q", "pos": null}"#, "pos"),
        (r#"{"anchor": "q", "positive": null}"#, "positive"),
    ] {
        fs::write(&path, row).unwrap();
        let error = read_examples(&path, &Silent).unwrap_err().to_string();
        assert!(error.ends_with(&format!("a.jsonl:1: field `{field}` is null")), "{error}");
    }
}

#[test]
fn a_beir_folder_or_its_judgments_are_rows() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    fs::write(
        path("corpus.jsonl"),
        "{\"_id\": \"a\", \"title\": \"T\", \"text\": \"x\"}\n{\"_id\": \"b\", \"text\": \"y\"}\n",
    )
    .unwrap();
    fs::write(path("queries.jsonl"), "{\"_id\": \"1\", \"text\": \"q\"}\n{\"_id\": \"2\", \"text\": \"r\"}\n").unwrap();
    fs::create_dir(path("qrels")).unwrap();
    fs::write(path("qrels/train.tsv"), "query-id\tcorpus-id\tscore\n2\tb\t1\n2\ta\t0\n2\tc\t1\n1\ta\t0\n").unwrap();
    fs::write(path("qrels/test.tsv"), "1\ta\t2\n").unwrap();
    let said = Said::default();
    let rows = read_rows(folder.path(), &said).unwrap();
    assert_eq!(rows.len(), 1);
    assert_eq!((&rows[0].example.query[..], &rows[0].example.positives[..]), ("r", &["y".to_string()][..]));
    assert_eq!(rows[0].example.negatives, ["T x"]);
    assert!(
        said.lines()[0].contains("train.tsv, 2 passages, 1 judged ones not among them or empty; 1 rows"),
        "{:?}",
        said.lines()
    );
    assert_eq!(read_rows(&path("qrels/test.tsv"), &Silent).unwrap()[0].example.query, "q");

    for name in ["corpus.jsonl", "qrels/train.tsv", "qrels/test.tsv"] {
        let text = fs::read_to_string(path(name)).unwrap();
        fs::write(path(&format!("{name}.gz")), packed(&text)).unwrap();
        fs::remove_file(path(name)).unwrap();
    }
    let from_packed = read_rows(folder.path(), &Silent).unwrap();
    assert_eq!((from_packed.len(), &from_packed[0].fields), (1, &rows[0].fields));
    assert_eq!(read_rows(&path("qrels/test.tsv.gz"), &Silent).unwrap()[0].example.query, "q");
    fs::remove_dir_all(path("qrels")).unwrap();
    let error = read_rows(folder.path(), &Silent).unwrap_err();
    assert!(error.to_string().contains("no judgments") && !error.hint().unwrap().contains("--split"), "{error}");
}

#[test]
fn what_is_no_data_is_refused_with_what_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let error = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(name);
        fs::write(&path, bytes).unwrap();
        let error = read_examples(&path, &Silent).unwrap_err();
        assert!(error.hint().is_some(), "{error}");
        error.to_string().replace(&format!("{}/", folder.path().display()), "")
    };
    let whole = packed(&"{\"query\": \"q\", \"pos\": [\"p\"]}\n".repeat(100));
    assert!(
        error("cut.jsonl.gz", &whole[..whole.len() - 9])
            .contains("cut.jsonl.gz: cannot read: the gzip data is damaged or cut off")
    );
    let zstd = fs::read(fixture("triplets.csv.zst")).unwrap();
    assert!(
        error("cut.zst", &zstd[..zstd.len() / 2]).contains("cut.zst: cannot read: the zstd data is damaged or cut off")
    );
    assert_eq!(error("a.jsonl", b"{\"query\"\0"), "a.jsonl: this is no text: byte 9 is zero");
    assert_eq!(error("a.csv", b"\xff\xfeq\0"), "a.csv: the text is UTF-16, expected UTF-8");
    assert_eq!(error("a.jsonl", b"PK\x03\x04"), "a.jsonl: this is a zip archive");
    let saved = folder.path().join("saved");
    fs::create_dir(&saved).unwrap();
    fs::write(saved.join("dataset_dict.json"), "{}").unwrap();
    let of_saved = read_examples(&saved, &Silent).unwrap_err();
    assert!(of_saved.hint().unwrap().contains("load_from_disk"), "{of_saved}");
    assert_eq!(error("a.arrow", b"ARROW1"), "a.arrow: this is an Arrow file, which is not read");
    assert_eq!(error("a.txt", b"how are you?\n"), "a.txt:1: not valid JSON: expected value at column 1");
    assert_eq!(error("a.csv", b""), "a.csv: the file has no rows");
    assert_eq!(error("a.csv", b"query,pos\n"), "a.csv: the file has no rows");
    assert!(error("a.csv", b"query,pos\nq,caf\xe9\n").starts_with("a.csv:2: not valid UTF-8"));
    // The name does not matter where the content speaks for itself.
    let path = folder.path().join("really.jsonl");
    fs::write(&path, "anchor,positive\nq,p\n").unwrap();
    assert_eq!(read_examples(&path, &Silent).unwrap()[0].positives, ["p"]);
}

#[cfg(feature = "parquet")]
#[test]
fn parquet_files_are_the_same_rows() {
    let expected = texts(read_examples(&fixture("triplets.jsonl"), &Silent).unwrap());
    assert_eq!(texts(read_examples(&fixture("triplets.parquet"), &Silent).unwrap()), expected);
    let rows = read_examples(&fixture("lists.parquet"), &Silent).unwrap();
    assert_eq!(rows[0].negatives, ["a", "b"]);
}

#[cfg(not(feature = "parquet"))]
#[test]
fn a_build_without_parquet_says_how_to_have_it() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out.parquet");
    let target = Target::of(&out).unwrap();
    let from = fixture("triplets.jsonl");
    let written = convert(&from, &Columns::default(), &out, target, RowShape::Rows, &Silent).unwrap_err();
    for error in [read_examples(&fixture("triplets.parquet"), &Silent).unwrap_err(), written] {
        assert!(error.to_string().contains("built without the feature `parquet`"), "{error}");
        assert!(error.hint().unwrap().contains("--features parquet"));
    }
    assert!(!out.exists());
}

#[test]
fn stored_rows_are_those_of_a_list_and_the_same_is_said_of_them() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("rows.jsonl");
    let labels = [("q1", "a", 1), ("q1", "b", 0), ("q2", "c", 1), ("q3", "d", 0), ("q1", "e", 1)];
    let line = |(query, text, label): (&str, &str, i32)| {
        format!("{{\"query\": \"{query}\", \"pos\": \"{text}\", \"label\": {label}}}\n")
    };
    let list = |rows: StoredExamples| rows.rows().map(|row| row.unwrap().into_owned()).collect::<Vec<_>>();
    for text in [labels.map(line).concat(), ROWS.to_string(), labels.map(line)[1].clone(), String::new()] {
        fs::write(&path, text).unwrap();
        let (said, said_of_stored) = (Said::default(), Said::default());
        let read = read_examples(&path, &said).map_err(|error| error.to_string());
        let stored = store_examples(&path, &Columns::default(), &said_of_stored).map(list);
        assert_eq!(stored.map_err(|error| error.to_string()), read);
        assert_eq!(said_of_stored.lines(), said.lines());
    }
    fs::write(&path, ROWS).unwrap();
    let stored = store_scored_examples(&path, &Columns::default(), &Silent).map(list).unwrap();
    assert_eq!(stored, read_scored_examples(&path, &Silent).unwrap());
}

#[cfg(unix)]
#[test]
fn what_can_be_read_once_is_not_taken_for_an_empty_file() {
    let folder = tempfile::tempdir().unwrap();
    let (device, columns) = (Path::new("/dev/null"), Columns::default());
    for form in [Form::Csv, Form::Tsv, Form::Parquet] {
        let to = folder.path().join("out");
        let error = convert(device, &columns, &to, Target::File(form), RowShape::Rows, &Silent).unwrap_err();
        assert!(error.to_string().contains("/dev/null: it is no file, and has to be read more than once"), "{error}");
        assert!(error.hint().is_some() && !to.exists());
    }
    let error = split_files(device, &columns, &folder.path().join("out"), &SplitSettings::default(), &Silent);
    assert!(error.unwrap_err().to_string().contains("has to be read more than once"));
}

const ROWS: &str = concat!(
    r#"{"id":7,"query":"q","pos":["[1]","two\nlines"],"neg":["a, \"b\""],"pos_scores":[1.5,2.0],"neg_scores":[0.1]}"#,
    "\n",
    r#"{"id":null,"query":"caf\u00e9","pos":["[\"p\"]"],"neg":["c","d"],"pos_scores":[1.0],"neg_scores":[0.25,-3.0]}"#,
    "\n",
);

#[test]
fn rows_survive_every_form() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    fs::write(path("rows.jsonl"), ROWS).unwrap();
    let columns = Columns::default();
    let to = |from: &str, to: &str| {
        let target = Target::of(&path(to)).unwrap();
        convert(&path(from), &columns, &path(to), target, RowShape::Rows, &Silent).unwrap()
    };
    let rows = |name: &str| texts(read_scored_examples(&path(name), &Silent).unwrap());
    let mut from = "rows.jsonl";
    let parquet = if cfg!(feature = "parquet") { "rows.parquet" } else { "more.jsonl" };
    for name in [
        "rows.csv",
        "rows.json",
        "rows.tsv.gz",
        "rows.csv.zst",
        "rows.ndjson.zst",
        parquet,
        "rows.json.gz",
        "back.jsonl",
    ] {
        assert_eq!(to(from, name).n_written, 2);
        assert_eq!(rows(name), rows("rows.jsonl"), "{name}");
        from = name;
    }
    let back = fs::read_to_string(path("back.jsonl")).unwrap();
    assert_eq!(
        back.replace("\"id\":\"7\"", "\"id\":7").replace("\"id\":\"\"", "\"id\":null"),
        ROWS.replace("\\u00e9", "\u{e9}")
    );
}

#[test]
fn shapes_and_beir_folders_hold_what_rows_say() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    fs::write(path("train.jsonl"), ROWS).unwrap();
    let columns = Columns::default();
    let shaped = |shape: RowShape, name: &str| {
        let converted =
            convert(&path("train.jsonl"), &columns, &path(name), Target::of(&path(name)).unwrap(), shape, &Silent);
        converted.unwrap();
        read_scored_examples(&path(name), &Silent).unwrap().len()
    };
    let left_out = |target: Target, shape: RowShape| {
        let said = Said::default();
        let name = if target == Target::Beir { "none.beir" } else { "none.jsonl" };
        convert(&path("train.jsonl"), &columns, &path(name), target, shape, &said).unwrap();
        said.lines()
            .into_iter()
            .filter_map(|line| Some(line.split_once("are left out: ")?.1.to_string()))
            .collect::<Vec<_>>()
    };
    let lines = Target::File(Form::JsonLines);
    assert_eq!(left_out(lines, RowShape::Rows), [""; 0]);
    assert_eq!(left_out(lines, RowShape::Pairs), ["`id`, `neg`, `pos_scores`, `neg_scores`"]);
    assert_eq!(left_out(lines, RowShape::Triplets), ["`id`, `pos_scores`, `neg_scores`"]);
    assert_eq!(left_out(Target::Beir, RowShape::Rows), ["`id`, `pos_scores`, `neg_scores`"]);

    let plain = |rows: Vec<Example>| texts(rows).into_iter().map(|(q, p, n, _)| (q, p, n)).collect::<Vec<_>>();
    assert_eq!(shaped(RowShape::Pairs, "p.csv"), 3);
    assert_eq!(shaped(RowShape::Triplets, "t.jsonl"), 4);
    assert_eq!(shaped(RowShape::LabeledPairs, "l.tsv"), 6);
    assert_eq!(shaped(RowShape::NTuples, "n.csv"), 3);
    let tuples = plain(read_examples(&path("n.csv"), &Silent).unwrap());
    let expanded = plain(read_examples(&path("train.jsonl"), &Silent).unwrap()).into_iter();
    let expanded =
        expanded.flat_map(|(q, positives, n)| positives.into_iter().map(move |p| (q.clone(), vec![p], n.clone())));
    assert_eq!(tuples, expanded.collect::<Vec<_>>());
    assert!(fs::read_to_string(path("p.csv")).unwrap().starts_with("anchor,positive\nq,"));

    let converted =
        convert(&path("train.jsonl"), &columns, &path("beir"), Target::Beir, RowShape::Rows, &Silent).unwrap();
    assert_eq!((converted.n_read, converted.n_written), (2, 6));
    assert!(path("beir/qrels/train.tsv").is_file());
    let read = |name: &str| plain(read_examples(&path(name), &Silent).unwrap());
    assert_eq!(read("beir"), read("train.jsonl"));

    fs::write(path("scored.jsonl"), r#"{"query": "q", "pos": "p", "label": 0}"#).unwrap();
    let file = Target::File(Form::JsonLines);
    for (target, shape) in [(file, RowShape::Pairs), (Target::Beir, RowShape::Rows)] {
        let error = convert(&path("scored.jsonl"), &columns, &path("none"), target, shape, &Silent).unwrap_err();
        assert!(error.to_string().contains("scored.jsonl:1: field `label` scores the pair"), "{error}");
        assert!(!path("none").exists());
    }
    fs::write(path("zero.jsonl"), r#"{"query": "q", "pos": ["a\u0000b"]}"#).unwrap();
    let error = convert(&path("zero.jsonl"), &columns, &path("none"), Target::File(Form::Tsv), RowShape::Rows, &Silent);
    assert!(error.unwrap_err().to_string().contains("U+0000") && !path("none").exists());
    fs::write(path("bare.jsonl"), r#"{"query": "q", "pos": ["p"]}"#).unwrap();
    let error = convert(&path("bare.jsonl"), &columns, &path("none"), file, RowShape::Triplets, &Silent).unwrap_err();
    assert!(error.to_string().contains("no row has a negative"), "{error}");
    for name in ["x.zst", "x.txt", "x"] {
        assert!(Target::of(Path::new(name)).unwrap_err().hint().is_some());
    }
    let parquet = Target::of(Path::new("x.parquet.gz")).unwrap();
    let error = convert(&path("bare.jsonl"), &columns, &path("x.parquet.gz"), parquet, RowShape::Rows, &Silent);
    let error = error.unwrap_err();
    assert!(
        error.to_string().contains("Parquet packs its columns itself") && !path("x.parquet.gz").exists(),
        "{error}"
    );
}

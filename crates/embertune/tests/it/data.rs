//! Reading data files: what is accepted, what is said, and every error with its place and hint.

use std::path::{Path, PathBuf};

use embertune::data::{Pool, TextId, read_examples, read_pool, read_rows, read_texts};
use embertune::progress::Silent;

use crate::said::Said;

struct File {
    folder: tempfile::TempDir,
    path: PathBuf,
}

fn file(name: &str, content: impl AsRef<[u8]>) -> File {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    std::fs::write(&path, content).unwrap();
    File { folder, path }
}

/// The error without its folder, and the hint.
fn shown(folder: &Path, error: embertune::Error) -> (String, String) {
    let text = error.to_string().replace(&format!("{}/", folder.display()), "");
    (text, error.hint().unwrap_or_default().to_string())
}

/// The error of reading `content` as training rows.
fn row_error(content: impl AsRef<[u8]>) -> (String, String) {
    let file = file("a.jsonl", content);
    shown(file.folder.path(), read_examples(&file.path, &Silent).unwrap_err())
}

/// The error of reading `content` as a pool.
fn pool_error(content: &str) -> (String, String) {
    let file = file("p.jsonl", content);
    shown(file.folder.path(), read_pool(&file.path, &Silent).unwrap_err())
}

const GOOD: &str = r#"{"query": "q", "pos": ["p"], "neg": ["n1", "n2"]}"#;

#[test]
fn rows_are_read_with_their_line_numbers() {
    let file = file("a.jsonl", format!("{GOOD}\n\n  \n{}\n", r#"{"pos": ["a", "b"], "query": "r"}"#));
    let rows = read_examples(&file.path, &Silent).unwrap();
    assert_eq!(rows.len(), 2);
    assert_eq!((rows[0].query.as_str(), rows[0].line), ("q", 1));
    assert_eq!(rows[0].negatives, ["n1", "n2"]);
    assert_eq!((rows[1].positives.as_slice(), rows[1].line), (&["a".to_string(), "b".to_string()][..], 4));
    assert!(rows[1].negatives.is_empty(), "`neg` may be absent");
}

#[test]
fn byte_order_mark_carriage_returns_and_a_missing_last_line_end_change_nothing() {
    let plain = file("a.jsonl", format!("{GOOD}\n{GOOD}\n"));
    let windows = file("a.jsonl", format!("\u{feff}{GOOD}\r\n{GOOD}"));
    let said = Said::default();
    assert_eq!(read_examples(&plain.path, &said).unwrap(), read_examples(&windows.path, &said).unwrap());
    assert_eq!(said.lines(), [] as [&str; 0]);
}

#[test]
fn a_string_in_the_place_of_a_list_is_taken_as_a_list_of_one_and_said_once() {
    let file = file("a.jsonl", format!("{GOOD}\n{0}\n{0}\n", r#"{"query": "q", "pos": "p", "neg": null}"#));
    let said = Said::default();
    let rows = read_examples(&file.path, &said).unwrap();
    assert_eq!(rows[1].positives, ["p"]);
    let place = file.path.display();
    assert_eq!(
        said.lines(),
        [format!("warning: {place}:2: field `pos` is a string, taken as a list of one (rows: 2)")]
    );
}

#[test]
fn fields_that_are_not_used_are_said_once_and_kept_for_writing_back() {
    let row = r#"{"id": 7, "query": "q", "pos": ["p"], "pos_scores": [0.5], "negs": []}"#;
    let file = file("a.jsonl", format!("{GOOD}\n{row}\n{row}\n"));
    let said = Said::default();
    read_examples(&file.path, &said).unwrap();
    let place = file.path.display();
    let note = |field| format!("note: {place}:2: field `{field}` is not used (rows that have it: 2)");
    assert_eq!(said.lines(), [note("id"), note("pos_scores"), note("negs")]);
    let rows = read_rows(&file.path, &Silent).unwrap();
    assert_eq!(rows[1].fields.keys().collect::<Vec<_>>(), ["id", "query", "pos", "pos_scores", "negs"]);
}

#[test]
fn a_bad_row_is_an_error_with_place_problem_and_hint() {
    let one_per_line = "put each row on its own line: `jq -c '.[]' in.json > out.jsonl`";
    let whole = "every object stands on one line, whole: `jq -c . in.json > out.jsonl`";
    let by_flag =
        |part: &str| format!("name the field that it is with `--columns {part}=...`, or rename it, or add it");
    let (query, positives) = (by_flag("query"), by_flag("pos"));
    let cases: [(&str, &str, &str); 17] = [
        (
            r#"{"query": "q" "pos": ["p"]}"#,
            "not valid JSON: expected `,` or `}` at column 15",
            "every line is one JSON object",
        ),
        (r#"{"query": "q", "pos": ["p"]"#, "not valid JSON: EOF while parsing an object at column 27", whole),
        ("{", "not valid JSON: EOF while parsing an object at column 1", whole),
        (
            r#"{"query": "q", "pos": ["p"], "pos_scores": [-Infinity, NaN]}"#,
            "not valid JSON: invalid number at column 46",
            "Python writes NaN and Infinity where JSON has no such numbers: leave these rows out",
        ),
        ("[", "not valid JSON: EOF while parsing a list at column 1", one_per_line),
        (r#"[{"query": "q", "pos": ["p"]}]"#, "found a list, expected a JSON object", one_per_line),
        ("7", "found a number, expected a JSON object", "every line is one object in braces"),
        ("{}", "field `query` is missing; found no fields", &query),
        (r#"{"question": "q", "pos": ["p"]}"#, "field `query` is missing; found `question`, `pos`", &query),
        (r#"{"query": "q", "neg": []}"#, "field `pos` is missing; found `query`, `neg`", &positives),
        (r#"{"query": "q", "pos": null}"#, "field `pos` is null", "fill it in, or leave the row out"),
        (
            r#"{"query": 7, "pos": ["p"]}"#,
            "field `query` has a number, expected a string",
            "put texts in quotation marks",
        ),
        (r#"{"query": " ", "pos": ["p"]}"#, "field `query` is an empty string", "fill it in, or remove it"),
        (r#"{"query": "q", "pos": []}"#, "field `pos` is an empty list", "give each query at least one positive"),
        (
            r#"{"query": "q", "pos": {"a": 1}}"#,
            "field `pos` has an object, expected a list of strings",
            "put texts in quotation marks",
        ),
        (r#"{"query": "q", "pos": ["p", ""]}"#, "item 2 of field `pos` is an empty string", "fill it in, or remove it"),
        (
            r#"{"query": "q", "pos": ["p"], "neg": [1]}"#,
            "field `neg` has a number, expected strings as items",
            "put texts in quotation marks",
        ),
    ];
    for (line, problem, hint) in cases {
        let expected = (format!("a.jsonl:2: {problem}"), hint.to_string());
        assert_eq!(row_error(format!("{GOOD}\n{line}\n")), expected, "{line}");
    }
}

#[test]
fn invalid_utf8_is_an_error_with_line_and_byte() {
    let (text, hint) = row_error([GOOD.as_bytes(), b"\n{\"query\": \"caf\xe9\"}\n"].concat());
    assert_eq!(text, "a.jsonl:2: not valid UTF-8 (byte 15 of the line)");
    assert!(hint.contains("iconv"), "{hint}");
}

#[test]
fn a_file_without_rows_is_an_error() {
    for empty in ["", "\n\n", "\u{feff}\r\n"] {
        let (text, hint) = row_error(empty);
        assert_eq!(text, "a.jsonl: the file has no rows");
        assert!(hint.contains("query"), "{hint}");
    }
    assert_eq!(pool_error("").0, "p.jsonl: the file has no rows");
    assert_eq!(pool_error(r#"{"context": []}"#).0, "p.jsonl: the file has no rows");
}

#[test]
fn a_folder_and_a_missing_file_are_errors() {
    let folder = tempfile::tempdir().unwrap();
    let error = read_examples(folder.path(), &Silent).unwrap_err().to_string();
    assert!(error.contains("no data files in this folder"), "{error}");
    let error = read_examples(&folder.path().join("no.jsonl"), &Silent).unwrap_err().to_string();
    assert!(error.contains("no.jsonl: cannot read: No such file"), "{error}");
}

#[test]
fn every_string_of_a_context_is_a_candidate_and_the_other_forms_are_one_each() {
    let lines = [
        r#"{"context": ["a", "b", "a"]}"#,
        r#"{"text": "c"}"#,
        r#"{"_id": "7", "title": "T", "text": "d"}"#,
        r#"{"id": 8, "title": "", "text": "e"}"#,
        r#"{"context": "f"}"#,
    ];
    let file = file("p.jsonl", lines.join("\n"));
    let said = Said::default();
    assert_eq!(read_pool(&file.path, &said).unwrap(), ["a", "b", "a", "c", "T d", "e", "f"]);
    let place = file.path.display();
    assert_eq!(
        said.lines(),
        [format!("warning: {place}:5: field `context` is a string, taken as a list of one (rows: 1)")]
    );
}

#[test]
fn a_bad_candidate_is_an_error() {
    let place = "p.jsonl:1: ";
    assert_eq!(
        pool_error(r#"{"contexts": ["a"]}"#).0,
        format!("{place}neither field `context` nor field `text` is there")
    );
    assert_eq!(
        pool_error(r#"{"context": ["a", "\n"]}"#).0,
        format!("{place}item 2 of field `context` is an empty string")
    );
    assert_eq!(pool_error(r#"{"text": ["a"]}"#).0, format!("{place}field `text` has a list, expected a string"));
}

#[test]
fn texts_come_from_plain_lines_or_from_json_lines_by_the_name_of_the_file() {
    let plain = file("t.txt", "one\r\n{\"text\": \"x\"}\n");
    assert_eq!(read_texts(&plain.path).unwrap(), ["one", "{\"text\": \"x\"}"]);
    let json = file("t.JSONL", "{\"text\": \"x\"}\n{\"query\": \"y\", \"pos\": [\"z\"]}\n");
    assert_eq!(read_texts(&json.path).unwrap(), ["x", "y"]);
    let gap = file("t.txt", "one\n\ntwo\n");
    assert_eq!(shown(gap.folder.path(), read_texts(&gap.path).unwrap_err()).0, "t.txt:2: the line is empty");
}

#[test]
fn a_pool_keeps_the_first_of_equal_texts_in_order() {
    let pool = Pool::new(["b", "a", " b\n", "c", "a"].map(String::from));
    assert_eq!(pool.texts(), ["b", "a", "c"]);
    assert_eq!(pool.n_duplicates(), 2);
    assert_eq!(pool.row(TextId::of("c")), Some(2));
    assert_eq!(pool.row(TextId::of("d")), None);
    assert_eq!(pool.ids()[1], TextId::of("a"));
}

//! `audit` as a command: the page, JSON, HTML, the repaired file, exit codes.

use serde_json::Value;

use crate::command::Desk;

/// A desk whose rows have a contradiction in line 3 and a copy in line 51, and half of which are test rows.
fn desk() -> Desk {
    let desk = Desk::new();
    let mut rows: Vec<String> = desk.read("rows.jsonl").lines().map(String::from).collect();
    desk.write("test.jsonl", rows[..25].join("\n"));
    rows[2] = rows[2].replace("]}", r#"], "neg": ["A program that sorts every editor!"]}"#);
    rows.push(rows[3].clone());
    desk.write("train.jsonl", rows.join("\n"));
    desk
}

fn kinds(json: &str) -> Vec<String> {
    let object: Value = serde_json::from_str(json).unwrap();
    let findings = object["findings"].as_array().unwrap();
    findings.iter().map(|finding| finding["kind"].as_str().unwrap().to_string()).collect()
}

#[test]
fn the_page_has_the_worst_first_in_80_columns_and_the_exit_code_says_so() {
    let desk = desk();
    let done = desk.run("audit train.jsonl --test test.jsonl --candidate_pool pool.jsonl");
    assert_eq!(done.code, 1, "{}", done.stderr);
    let at = |text: &str| done.stdout.find(text).unwrap_or_else(|| panic!("no `{text}` in\n{}", done.stdout));
    assert!(at("ERROR    ") < at("WARNING  ") && at("WARNING  ") < at("Lengths in words"), "{}", done.stdout);
    assert!(done.stdout.contains("test.jsonl:1, train.jsonl:1"), "{}", done.stdout);
    let long: Vec<_> = done.stdout.lines().filter(|line| line.chars().count() > 80).collect();
    assert!(long.is_empty(), "{long:?}");
    for (arguments, code) in [
        ("rows.jsonl", 0),
        ("rows.jsonl --test rows.jsonl --fail_on never", 0),
        ("rows.jsonl --test rows.jsonl", 1),
        ("train.jsonl --use_inbatch_neg False --fail_on warning", 1),
        ("nowhere.jsonl", 2),
        ("rows.jsonl --fail_on sometimes", 2),
        ("rows.jsonl --html no/where.html", 2),
    ] {
        let done = desk.run(&format!("audit {arguments}"));
        assert_eq!(done.code, code, "{arguments}\n{}\n{}", done.stdout, done.stderr);
    }
}

#[test]
fn what_was_repaired_passes_and_what_was_left_out_is_listed() {
    let desk = desk();
    let found = desk.run("audit train.jsonl --json --fail_on never").ok();
    let found = kinds(&found.stdout);
    for kind in ["contradictions_in_row", "repeated_rows"] {
        assert!(found.iter().any(|found| found == kind), "{kind}: {found:?}");
    }
    let done = desk.run("audit train.jsonl --test test.jsonl --fix clean.jsonl");
    assert!(done.stderr.contains("clean.jsonl: 25 of 51 rows"), "{}", done.stderr);
    assert_eq!(desk.read("clean.dropped.jsonl").lines().count(), 26);
    let done = desk.run("audit clean.jsonl --test test.jsonl --json").ok();
    let left = kinds(&done.stdout);
    assert!(!left.iter().any(|kind| found.contains(kind) && kind != "near_queries"), "{left:?}");
}

#[test]
fn the_html_is_one_page_that_fetches_nothing_and_without_texts_shows_none() {
    let desk = desk();
    desk.write("train.jsonl", desk.read("train.jsonl").replace("editor", "<b>editor</b>"));
    desk.write("test.jsonl", desk.read("test.jsonl").replace("editor", "<b>editor</b>"));
    let with = |more: &str| {
        let done = desk
            .run(&format!("audit train.jsonl --test test.jsonl --model model --html page.html --fail_on never {more}"));
        (done.ok().stdout, desk.read("page.html"))
    };
    let (page, html) = with("");
    assert!(page.contains("Lengths in tokens") && page.contains("the model, train.jsonl"), "{page}");
    for outside in ["http:", "https:", "src=", "<script", "<link", "@import", "url(", "<b>"] {
        assert!(!html.contains(outside), "{outside}");
    }
    assert!(html.contains("&lt;b&gt;editor") && html.contains("prefers-color-scheme: dark"));
    let (page, html) = with("--no_texts --json");
    assert!(!page.contains("editor") && !html.contains("editor"));
}

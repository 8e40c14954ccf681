//! `split` and `convert`, and that other commands read what they write.

use std::fs;

use crate::command::Desk;

#[test]
fn a_table_is_mined_like_the_lines_that_it_was_made_of() {
    let desk = Desk::new();
    desk.run("convert rows.jsonl rows.csv").ok();
    assert!(desk.read("rows.csv").starts_with("query,pos\neditor reads,a program that reads every editor\n"));
    let mined = |input: &str| {
        let arguments =
            format!("mine --ranking bm25 --input_file {input} --output_file mined.jsonl --negative_number 2");
        (desk.run(&arguments).ok().stderr, desk.read("mined.jsonl"))
    };
    let (said, from_csv) = mined("rows.csv");
    assert!(said.contains("note: rows.csv: CSV, columns query, pos; 50 rows"), "{said}");
    assert_eq!(from_csv, mined("rows.jsonl").1);
    desk.write("renamed.tsv", desk.read("rows.csv").replacen("query,pos", "question,answer", 1).replace(',', "\t"));
    assert_eq!(from_csv, mined("renamed.tsv --columns query=question,pos=answer").1);
}

#[test]
fn a_split_is_shown_and_never_overwritten() {
    let desk = Desk::new();
    let done = desk.run("split rows.jsonl --out sides --dev 0.2 --test 0.1").ok();
    let lines: Vec<_> = done.stdout.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    let expected = [
        "rows queries file",
        "train 35 35 sides/train.jsonl",
        "dev 10 10 sides/dev.jsonl",
        "test 5 5 sides/test.jsonl",
    ];
    assert_eq!(lines, expected, "{}", done.stderr);
    assert_eq!(desk.read("sides/test.jsonl").lines().count(), 5);
    let again = desk.run("split rows.jsonl --out sides");
    assert_eq!(again.code, 2);
    assert!(again.stderr.contains("error: sides: the folder is not empty"), "{}", again.stderr);
}

#[test]
fn an_output_that_says_no_form_is_refused() {
    let desk = Desk::new();
    for (arguments, problem) in [
        ("convert rows.jsonl out", "`out` does not say what it shall be"),
        #[cfg(not(feature = "parquet"))]
        ("convert rows.jsonl out.parquet", "built without the feature `parquet`"),
        ("convert rows.jsonl out --to beir --shape pairs", "a BEIR folder has one shape"),
        ("convert rows.jsonl out.csv --columns question=query", "`question` is not one of query, pos,"),
    ] {
        let before = desk.names();
        let done = desk.run(arguments);
        assert!(done.code == 2 && done.stderr.contains(problem), "{arguments}: {}", done.stderr);
        assert_eq!(desk.names(), before, "{arguments}");
    }
}

#[test]
fn rows_that_a_cross_encoder_scored_are_what_distillation_reads() {
    let desk = Desk::new();
    let teacher = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/golden/tiny-reranker");
    desk.run("mine --ranking bm25 --input_file rows.jsonl --output_file mined.jsonl --preset sentence-transformers")
        .ok();
    let score = format!("score --model_name_or_path {teacher} --input_file mined.jsonl --output_file scored.jsonl");
    let said = desk.run(&score).ok().stderr;
    assert!(
        said.contains("scores go through a sigmoid") && said.contains("scored.jsonl: 50 rows with scores"),
        "{said}"
    );
    let row: serde_json::Value = serde_json::from_str(desk.read("scored.jsonl").lines().next().unwrap()).unwrap();
    let all_in_unit = |field: &str, n: usize| {
        let scores = row[field].as_array().unwrap();
        scores.len() == n && scores.iter().all(|score| (0.0..1.0).contains(&score.as_f64().unwrap()))
    };
    assert!(all_in_unit("pos_scores", 1) && all_in_unit("neg_scores", 3), "{row}");
    desk.run(
        "train --model_name_or_path model --train_data scored.jsonl --output_dir tuned --loss margin_mse --train_group_size 2 \
         --max_steps 1",
    )
    .ok();

    let said = desk.run(&format!("{score} --activation_fn identity --absolute_margin 0")).ok().stderr;
    assert!(!said.contains("sigmoid") && said.contains("negatives score above"), "{said}");
    let done = desk.run(&format!("{score} --min_score 1 --max_score 0"));
    assert!(done.code == 2 && done.stderr.contains("no score is between them"), "{}", done.stderr);
}

#[test]
fn nothing_that_is_read_is_written_over_but_rows_by_themselves() {
    let desk = Desk::new();
    let mine = "mine --ranking bm25 --input_file rows.jsonl --negative_number 2 --preset nv-retriever";
    let audit = "audit rows.jsonl --test test.jsonl --candidate_pool pool.jsonl";
    let evaluate = "evaluate --model_name model --index_file_jsonl_path pool.jsonl --query_file_jsonl_path rows.jsonl";
    desk.write("test.jsonl", desk.read("rows.jsonl"));
    desk.write("a.dropped.jsonl", desk.read("rows.jsonl"));
    for (arguments, file, problem) in [
        (format!("{mine} --candidate_pool pool.jsonl --output_file pool.jsonl"), "pool.jsonl", "what is read"),
        (format!("{mine} --output_file out.jsonl --review rows.jsonl"), "rows.jsonl", "what is read"),
        (format!("{mine} --output_file out.jsonl --review out.jsonl"), "out.jsonl", "two outputs"),
        (format!("{audit} --fix rows.jsonl"), "rows.jsonl", "what is read"),
        (format!("{audit} --fix test.jsonl"), "test.jsonl", "what is read"),
        (format!("{audit} --html pool.jsonl"), "pool.jsonl", "what is read"),
        (format!("{audit} --html a --output a"), "a", "two outputs"),
        ("audit a.dropped.jsonl --fix a.jsonl".into(), "a.dropped.jsonl", "what is read"),
        (format!("{evaluate} --output rows.jsonl"), "rows.jsonl", "what is read"),
        (format!("{evaluate} --run_file pool.jsonl"), "pool.jsonl", "what is read"),
    ] {
        let before = desk.names().into_iter().map(|name| (desk.path(&name).is_file().then(|| desk.read(&name)), name));
        let before: Vec<_> = before.collect();
        let done = desk.run(&arguments);
        let said = done.stderr.lines().find(|line| line.starts_with("error: ")).unwrap_or_default();
        assert!(done.code == 2 && said.starts_with(&format!("error: {file}: ")), "{arguments}: {}", done.stderr);
        assert!(said.contains(problem) && done.stderr.contains("hint: name another file"), "{said}");
        let after = desk.names().into_iter().map(|name| (desk.path(&name).is_file().then(|| desk.read(&name)), name));
        assert!(after.eq(before), "{arguments}");
    }
    desk.run(&format!("{mine} --output_file rows.jsonl")).ok();
    assert!(desk.read("rows.jsonl").contains(r#""neg":["#));
}

#[test]
fn lines_are_packed_where_their_name_says_so_and_are_no_table() {
    let desk = Desk::new();
    let mine = "mine --ranking bm25 --input_file rows.jsonl --negative_number 2 --output_file";
    desk.run(&format!("{mine} mined.jsonl")).ok();
    let packed = |name: &str| {
        let start = &fs::read(desk.path(name)).unwrap()[..2];
        start == [0x1F, 0x8B] || start == [0x28, 0xB5]
    };
    for name in ["mined.jsonl.gz", "mined.jsonl.zst"] {
        desk.run(&format!("{mine} {name}")).ok();
        desk.run(&format!("convert {name} back.jsonl")).ok();
        assert!(packed(name) && desk.read("back.jsonl") == desk.read("mined.jsonl"), "{name}");
    }
    desk.write("twice.jsonl", format!("{0}\n{0}", desk.read("rows.jsonl")));
    desk.run("audit twice.jsonl --fix clean.jsonl.gz").ok();
    desk.run("convert clean.jsonl.gz back.jsonl").ok();
    assert!(packed("clean.jsonl.gz") && desk.read("back.jsonl").lines().count() == 50);
    assert_eq!(desk.read("clean.dropped.jsonl").lines().count(), 50);
    for arguments in [format!("{mine} a.csv"), format!("{mine} a.parquet"), "audit rows.jsonl --fix a.tsv.gz".into()] {
        let done = desk.run(&arguments);
        assert!(done.code == 2 && done.stderr.contains("what is written is JSON lines"), "{}", done.stderr);
    }
}

#[test]
fn scored_pairs_are_mined_with_a_warning_and_a_pipe_is_not_read_twice() {
    let desk = Desk::new();
    let pairs = |field: &str, n: &str| {
        let pair = |i: usize| format!(r#"{{"sentence1": "cat {i}", "sentence2": "dog {i}", "{field}": {n}}}"#);
        (0..9).map(pair).collect::<Vec<_>>().join("\n")
    };
    for (field, number, warns) in [("score", "0.2", true), ("label", "3", true), ("label", "1", false)] {
        desk.write("pairs.jsonl", pairs(field, number));
        let said = desk.run("mine --ranking bm25 --input_file pairs.jsonl --output_file out.jsonl").ok().stderr;
        assert_eq!(said.contains("warning: pairs.jsonl:1: scores of pairs are not used"), warns, "{field}: {said}");
    }
    if cfg!(unix) {
        for arguments in ["tune /dev/null --model model --out tuned", "audit /dev/null --fix clean.jsonl"] {
            let done = desk.run(arguments);
            assert!(done.code == 2 && done.stderr.contains("has to be read more than once"), "{}", done.stderr);
        }
    }
}

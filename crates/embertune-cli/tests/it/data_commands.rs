//! `split` and `convert`, and that other commands read what they write.

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

//! `evaluate` and `compare` as commands: saved results, runs, probes, requirements and exit codes.

use std::fs;

use serde_json::Value;

use crate::command::{Desk, Done};

const SETS: &str = "--index_file_jsonl_path pool.jsonl --query_file_jsonl_path rows.jsonl";

/// A desk with a second model `tuned`, trained on the rows that it is evaluated on.
fn desk() -> Desk {
    let desk = Desk::new();
    desk.run(
        "train --model_name_or_path model --train_data rows.jsonl --output_dir tuned --train_group_size 1 \
         --per_device_train_batch_size 10 --learning_rate 1e-3 --num_train_epochs 2 --query_max_len 16 --passage_max_len 16",
    )
    .ok();
    desk
}

fn json(done: &Done) -> Value {
    serde_json::from_str(&done.stdout).unwrap_or_else(|_| panic!("{}\n{}", done.stdout, done.stderr))
}

#[test]
fn models_and_their_saved_results_compare_alike() {
    let desk = desk();
    let saved = |model: &str, more: &str| {
        desk.run(&format!("evaluate --model_name {model} {SETS} --output {model}.json {more}")).ok();
    };
    saved("model", "--cutoffs 1");
    saved("tuned", "--cutoffs 100");
    let page = desk.run(&format!("compare model tuned {SETS} --threads 1")).ok();
    assert_eq!(page.stdout, desk.run("compare model.json tuned.json --threads 2").ok().stdout);
    assert_eq!(page.stdout, desk.run(&format!("compare model.json tuned {SETS}")).ok().stdout);
    let lines: Vec<_> = page.stdout.lines().collect();
    assert_eq!(lines[..2], ["base:  model", "tuned: tuned"]);
    assert!(lines[3].contains("MRR@10") && lines[5] == "Test set rows: 50 queries, 50 passages", "{}", page.stdout);

    let done = desk.run("compare model.json tuned.json --json --no_texts --seed 1").ok();
    let object = json(&done);
    assert_eq!(lines[3].split(" [").next(), object["verdict"].as_str().unwrap().split(" [").next());
    let row = &object["sets"][0]["measures"][0];
    assert_eq!((row["measure"].as_str(), row["n"].as_u64()), (Some("MRR@10"), Some(50)));
    let pairs = ["won", "lost", "tied"].map(|name| row[name].as_u64().unwrap());
    assert_eq!(pairs.iter().sum::<u64>(), 50);
    assert!(!done.stdout.contains("program"), "no text is shown: {}", done.stdout);

    // Fields of the queries, and nothing else that the data says, are kept without texts.
    saved("tuned", "--no_texts");
    assert!(!desk.read("tuned.json").contains("program"));
}

#[test]
fn requirements_decide_the_exit_code() {
    let desk = desk();
    let rows: Vec<_> = desk.read("rows.jsonl").lines().take(12).map(str::to_string).collect();
    desk.write("probe.jsonl", rows.join("\n"));
    for model in ["model", "tuned"] {
        desk.run(&format!("evaluate --model_name {model} {SETS} --probe pool.jsonl,probe.jsonl --output {model}.json"))
            .ok();
    }
    let compare = |more: &str| desk.run(&format!("compare model.json tuned.json {more}"));
    let met = compare("--require mrr@10>=-1 --require probe:map@5>=0 --require hit@3>=0.0");
    assert_eq!((met.code, met.stderr.as_str()), (0, ""));
    assert!(met.stdout.contains("Probe probe: 12 queries"), "{}", met.stdout);
    let unmet = compare("--require mrr@10>=+1 --json");
    assert_eq!(unmet.code, 1);
    assert!(unmet.stderr.contains("requirement `mrr@10>=+1` is not met: the difference is "), "{}", unmet.stderr);
    assert_eq!(json(&unmet)["unmet"].as_array().unwrap().len(), 1);
    // A model is as good as itself.
    let same = desk.run("compare model.json model.json --require not_worse").ok();
    assert!(same.stdout.contains("no difference: MRR@10 is the same for each of 50 queries"), "{}", same.stdout);
    assert_eq!(desk.run("compare model.json model.json --require better").code, 1);
    assert_eq!(compare("--require law:mrr@10>=0").code, 2);
}

#[test]
fn a_run_that_was_written_has_the_same_metrics_when_it_is_read() {
    let desk = Desk::new();
    let evaluate = |what: &str| json(&desk.run(&format!("evaluate {what} --json")).ok());
    let made = evaluate(&format!("--model_name model {SETS} --run_file a.run"));
    let read = evaluate(&format!("--evaluate_run a.run {SETS}"));
    assert_eq!(made["scores"], read["scores"]);
    // By judgments alone: the n-th query is answered by the n-th passage.
    let qrels: Vec<_> = (1..=50).map(|i| format!("q{i} 0 d{i} 1")).collect();
    desk.write("qrels.txt", qrels.join("\n"));
    let judged = evaluate("--evaluate_run a.run --qrels qrels.txt");
    assert_eq!(made["scores"], judged["scores"]);
    assert_eq!(judged["n_candidates"], 0);
}

#[test]
fn a_beir_folder_is_a_test_set_and_pairs_and_triplets_are_evaluated_beside_it() {
    let desk = Desk::new();
    fs::create_dir_all(desk.path("beir/qrels")).unwrap();
    let passages = ["draws every map", "", "counts every poem"];
    let corpus =
        passages.iter().enumerate().map(|(i, text)| format!(r#"{{"_id": "p{i}", "title": "t", "text": "{text}"}}"#));
    desk.write("beir/corpus.jsonl", corpus.collect::<Vec<_>>().join("\n"));
    desk.write("beir/queries.jsonl", "{\"_id\": \"a\", \"text\": \"map\"}\n{\"_id\": \"b\", \"text\": \"poem\"}\n");
    desk.write("beir/qrels/test.tsv", "query-id\tcorpus-id\tscore\na\tp0\t3\na\tp1\t1\nb\tp2\t1\n");
    desk.write(
        "pairs.jsonl",
        "{\"sentence1\": \"a\", \"sentence2\": \"a\", \"score\": 5}\n{\"sentence1\": \"a\", \"sentence2\": \"b c\", \"score\": 1}\n",
    );
    desk.write("triplets.jsonl", "{\"query\": \"map\", \"pos\": [\"map\"], \"neg\": [\"poem\", \"clock\"]}\n");
    let object = json(
        &desk
            .run("evaluate --model_name model --test_set beir --sts_file pairs.jsonl --triplet_file triplets.jsonl --json")
            .ok(),
    );
    assert_eq!((object["n_queries"].as_u64(), object["n_positives"].as_u64()), (Some(2), Some(3)));
    assert_eq!((object["pairs"]["spearman"].as_f64(), object["pairs"]["pearson"].as_f64()), (Some(1.0), Some(1.0)));
    assert_eq!(
        (object["triplets"]["n_triplets"].as_u64(), object["triplets"]["accuracy"].as_f64()),
        (Some(2), Some(1.0))
    );
}

#[test]
fn what_cannot_be_compared_or_evaluated_is_an_error_with_a_hint() {
    let desk = Desk::new();
    desk.run(&format!("evaluate --model_name model {SETS} --output a.json")).ok();
    let half: Vec<_> = desk.read("rows.jsonl").lines().take(20).map(str::to_string).collect();
    desk.write("half.jsonl", half.join("\n"));
    let other = SETS.replace("rows.jsonl", "half.jsonl");
    desk.run(&format!("evaluate --model_name model {other} --output b.json")).ok();
    desk.write("run", "q1 Q0 d1 1 0.5 t\n");
    for (arguments, message) in [
        ("compare a.json b.json", "their queries differ"),
        ("compare a.json model", "`model` is no file with saved results"),
        ("compare a.json rows.jsonl", "rows.jsonl: no saved results"),
        ("compare a.json a.json --slice_by age", "no query has a field `age`"),
        ("compare a.json a.json --metric mrr", "is no metric with a cutoff"),
        ("compare a.json a.json --require mrr@10", "like mrr@10>=+0.02"),
        ("compare a.json a.json --resamples 0", "`--resamples 0`"),
        ("compare a.json a.json --probe beir", "`--probe` without a test set"),
        ("evaluate --model_name model", "required"),
        ("evaluate --test_set beir", "required"),
        ("evaluate --model_name model --index_file_jsonl_path pool.jsonl", "--query_file_jsonl_path"),
        ("evaluate --model_name model --test_set nowhere", "there is no such folder"),
        ("evaluate --evaluate_run run --model_name model --qrels q", "cannot be used with"),
        ("evaluate --model_name model --qrels q", "cannot be used with"),
        ("evaluate --model_name model --sts_file rows.jsonl", "field `score` is missing"),
    ] {
        let done = desk.run(arguments);
        assert_eq!(done.code, 2, "{arguments}\n{}\n{}", done.stdout, done.stderr);
        assert!(done.stderr.contains(message), "{arguments}: {message}\n{}", done.stderr);
    }
}

#[test]
fn a_verdict_beside_another_model_and_queries_without_an_answer_are_warned_of() {
    let desk = desk();
    let warned = |folder: &str| {
        let done = desk.run(&format!("compare model tuned {SETS} --save_verdict {folder}")).ok();
        done.stderr.contains(&format!("{folder} holds another model than tuned"))
    };
    fs::create_dir(desk.path("empty")).unwrap();
    assert_eq!([warned("model"), warned("tuned"), warned("empty")], [true, false, false]);

    desk.run(&format!("evaluate --model_name model {SETS} --run_file run.txt")).ok();
    for (qrels, said) in [("q1 0 d1 0\nq2 0 d2 1\n", true), ("q1 0 d1 1\nq2 0 d2 1\n", false)] {
        desk.write("qrels.txt", qrels);
        let done = desk.run("evaluate --evaluate_run run.txt --qrels qrels.txt").ok();
        assert_eq!(done.stderr.contains("1 of 2 queries have no relevant document"), said, "{}", done.stderr);
    }
}

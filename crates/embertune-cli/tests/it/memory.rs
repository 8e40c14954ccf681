//! The memory of a training, the plan that is said before it, and what both leave behind.

use std::fs;

use crate::command::{Desk, Done};

/// Rows that take far more memory than the rest of the process: activations of about 200 MB.
fn desk() -> Desk {
    let desk = Desk::new();
    let words = "a program that reads writes sorts draws and counts every editor map and network ".repeat(6);
    let rows: Vec<_> = (0..600).map(|i| format!(r#"{{"query": "row {i}", "pos": ["{i} {words}"]}}"#)).collect();
    desk.write("long.jsonl", rows.join("\n"));
    desk
}

const TRAIN: &str = "train --model_name_or_path model --train_data long.jsonl --train_group_size 1 --max_steps 2 \
                     --per_device_train_batch_size 300 --threads 2";

fn train(desk: &Desk, flags: &str) -> Done {
    desk.run(&format!("{TRAIN} {flags}"))
}

/// The number of MB that stands before ` MB (` in the line that compares the run with its plan.
fn peak_mb(done: &Done) -> u64 {
    let line = done.stderr.lines().find(|line| line.contains("against the plan: ")).unwrap();
    let before = line.split(" MB (").next().unwrap();
    before.rsplit(' ').next().unwrap().parse().unwrap_or_else(|_| panic!("{line}"))
}

/// The least budget in MB that a run takes, which the error about a smaller one names.
fn least_mb(desk: &Desk, flags: &str) -> u64 {
    let refused = train(desk, &format!("--output_dir no --memory_budget 1MB {flags}"));
    assert_eq!(refused.code, 2, "{}", refused.stderr);
    let hint = refused.stderr.lines().find_map(|line| line.strip_prefix("hint: pass `--memory_budget ")).unwrap();
    hint.split("MB`").next().unwrap().parse().unwrap()
}

#[test]
fn evaluations_and_the_mixing_with_the_base_stay_within_the_budget_and_are_in_the_plan() {
    let desk = desk();
    let flags = "--eval_data long.jsonl --load_best_model_at_end --merge_alpha 0.5";
    let budget = least_mb(&desk, flags) + 10;
    let done = train(&desk, &format!("--output_dir out --memory_budget {budget}MB {flags}")).ok();
    assert!(peak_mb(&done) <= budget, "{budget} MB: {}", done.stderr);
    // The base model, the tuned one, and their mixture.
    assert!(done.stderr.contains("of evaluating 3 times"), "{}", done.stderr);
    assert!(done.stderr.contains("%), evaluation "), "{}", done.stderr);
    let record: serde_json::Value = serde_json::from_str(&desk.read("out/run.json")).unwrap();
    assert_eq!(record["forecast"]["evaluations"], 3);
}

#[test]
fn a_run_stays_within_its_budget_and_gives_the_same_model_in_any_budget() {
    let desk = desk();
    let free = train(&desk, "--output_dir free").ok();
    assert!(!free.stderr.contains("computed twice"), "{}", free.stderr);
    let least = least_mb(&desk, "");
    let expected = fs::read(desk.path("free/model.safetensors")).unwrap();
    // A part of the activations fits, none to a half of them.
    let part = (peak_mb(&free) - least) / 4;
    for budget in [least, least + part, least + 2 * part] {
        let name = format!("within{budget}");
        let done = train(&desk, &format!("--output_dir {name} --memory_budget {budget}MB")).ok();
        assert!(done.stderr.contains("computed twice"), "{budget} MB: {}", done.stderr);
        assert!(peak_mb(&done) <= budget, "{budget} MB: {}", done.stderr);
        assert!(peak_mb(&done) < peak_mb(&free) / 4 * 3, "{budget} MB: {}", done.stderr);
        assert!(fs::read(desk.path(&name).join("model.safetensors")).unwrap() == expected, "{budget} MB");
    }
}

#[test]
fn a_dry_run_says_the_plan_and_writes_nothing() {
    let desk = desk();
    let before = desk.names();
    let done = train(&desk, "--output_dir out --warmup_ratio 0.5 --dry_run").ok();
    assert_eq!((desk.names(), done.stdout.as_str()), (before, ""));
    for said in [
        "plan: 2 steps of 300 rows, 1 of them warm-up; learning rate linear, at most 5e-5",
        "tokens in 2 batches of the first epoch",
        "of the texts are cut",
        "of what is available (`--memory_budget`)",
        "s of training",
    ] {
        assert!(done.stderr.contains(said), "{said}\n{}", done.stderr);
    }
    assert!(!done.stderr.contains("training: step") && !done.stderr.contains('\r'), "{}", done.stderr);
}

#[test]
fn a_run_ends_with_what_became_of_its_plan() {
    let desk = desk();
    let done = train(&desk, "--output_dir out").ok();
    assert!(done.stderr.contains("note: against the plan: training "), "{}", done.stderr);
    let record: serde_json::Value = serde_json::from_str(&desk.read("out/run.json")).unwrap();
    assert_eq!(record["forecast"]["tokens_per_epoch"], record["counts"]["tokens"]);
    assert_eq!(record["settings"]["memory_budget"], "60%");
    let log: serde_json::Value = serde_json::from_str(desk.read("out/log.jsonl").lines().next().unwrap()).unwrap();
    assert_eq!(log["negatives_per_query"], 299.0);
}

#[test]
fn the_largest_batch_that_fits_is_found() {
    let desk = desk();
    let rows = |done: Done| -> usize {
        let line = done.stderr.lines().find(|line| line.contains(" steps of ")).unwrap().to_owned();
        line.split(" steps of ").nth(1).unwrap().split(' ').next().unwrap().parse().unwrap()
    };
    let find = |flags: &str| {
        let command =
            TRAIN.replace("--per_device_train_batch_size 300", "--find_batch_size --dry_run --output_dir out");
        desk.run(&format!("{command} {flags}"))
    };
    assert_eq!(rows(find("").ok()), 512);
    let tight = rows(find("--memory_budget 150MB").ok());
    assert!(tight < 512 && tight.is_power_of_two(), "{tight}");
    let both = find("--per_device_train_batch_size 8");
    assert_eq!(both.code, 2);
    assert!(both.stderr.contains("cannot be used with"), "{}", both.stderr);
}

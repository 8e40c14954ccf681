//! Commands that fail: the message, the hint, exit code 2, and nothing written.

use std::fs;

use crate::command::Desk;

const MINE: &str = "mine --model_name_or_path model --input_file rows.jsonl --output_file out.jsonl";
const TRAIN: &str = "train --model_name_or_path model --train_data rows.jsonl --output_dir out --train_group_size 1";

/// Runs a command that has to fail with these words in its message and in its hint, and leave the folder as it is.
fn fails(desk: &Desk, arguments: &str, message: &str, hint: &str) {
    let before = desk.names();
    let done = desk.run(arguments);
    assert_eq!(done.code, 2, "{arguments}\n{}", done.stderr);
    assert_eq!(done.stdout, "", "{arguments}");
    let line = |start| done.stderr.lines().find_map(|line| line.strip_prefix(start)).unwrap_or("");
    assert!(line("error: ").contains(message), "{arguments}: {message}\n{}", done.stderr);
    assert!(line("hint: ").contains(hint), "{arguments}: {hint}\n{}", done.stderr);
    assert!(!done.stderr.contains("panicked"), "{}", done.stderr);
    assert_eq!(desk.names(), before, "{arguments}");
}

#[test]
fn bad_rows_are_named_by_file_and_line() {
    let good = r#"{"query": "q", "pos": ["p"]}"#;
    for (row, message, hint) in [
        (r#"{"query": "q", "pos": ["p"]"#.as_bytes(), "rows.jsonl:2: ", ""),
        (br#"{"pos": ["p"]}"#, "field `query`", ""),
        (br#"{"query": "q"}"#, "field `pos`", ""),
        (br#"{"query": "", "pos": ["p"]}"#, "field `query` is an empty string", ""),
        (br#"{"query": "q", "pos": []}"#, "field `pos` is an empty list", "at least one positive"),
        (b"{\"query\": \"\xff\", \"pos\": [\"p\"]}", "UTF-8", ""),
    ] {
        let desk = Desk::new();
        desk.write("rows.jsonl", [good.as_bytes(), b"\n", row, b"\n"].concat());
        for command in [MINE, TRAIN] {
            fails(&desk, command, "rows.jsonl:2: ", "");
            fails(&desk, command, message, hint);
        }
    }
}

#[test]
fn a_string_in_place_of_a_list_is_a_warning() {
    let desk = Desk::new();
    desk.write("rows.jsonl", "{\"query\": \"q\", \"pos\": \"p\"}\n{\"query\": \"r\", \"pos\": \"s\"}\n");
    let done = desk.run(&format!("{MINE} --range_for_sampling 0-2 --negative_number 1")).ok();
    assert_eq!(done.stderr.matches("taken as a list of one").count(), 1, "{}", done.stderr);
}

#[test]
fn training_without_any_negative_is_refused_with_the_reason() {
    let desk = Desk::new();
    fails(&desk, &format!("{TRAIN} --per_device_train_batch_size 1"), "without a negative", "--train_group_size 2");
    let no_negatives = TRAIN.replace("--train_group_size 1", "--train_group_size 2 --use_inbatch_neg False");
    fails(&desk, &no_negatives, "negative", "embertune mine");
}

#[test]
fn a_memory_budget_that_cannot_work_is_refused_with_one_that_can() {
    let desk = Desk::new();
    for budget in ["2XB", "2", "0GB", "101%"] {
        fails(&desk, &format!("{TRAIN} --memory_budget {budget}"), &format!("invalid value '{budget}'"), "");
    }
    let problem = "`--memory_budget 1MB` is 1 MB, but this run needs ";
    fails(&desk, &format!("{TRAIN} --memory_budget 1MB"), problem, "pass `--memory_budget ");
}

#[test]
fn losses_refuse_what_does_not_belong_to_them() {
    let desk = Desk::new();
    for (flags, message, hint) in [
        ("--loss cosent --mask_margin 0.1", "`--mask_margin` has no effect on `--loss cosent`", "another loss"),
        (
            "--loss kl_div --knowledge_distillation --kd_loss_type m3_kd_loss",
            "stands for `--loss m3_kd_loss`",
            "one of the two",
        ),
        ("--loss kl_div", "rows.jsonl:1: the row has no scores of a teacher", "`pos_scores`"),
        ("--loss margin_mse", "`--train_group_size 1` with `--loss margin_mse`", "--train_group_size 2"),
        ("--use_mrl True", "`--use_mrl True` needs `--mrl_dims`", "--mrl_dims 384"),
        ("--matryoshka_dims 64", "`--matryoshka_dims` has 64", "up to 48"),
    ] {
        fails(&desk, &format!("{TRAIN} {flags}"), message, hint);
    }
}

#[test]
fn an_existing_output_folder_is_kept_unless_it_may_be_replaced() {
    let desk = Desk::new();
    fs::create_dir(desk.path("out")).unwrap();
    desk.write("out/keep.txt", "mine");
    fails(&desk, TRAIN, "out", "");
    assert_eq!(desk.read("out/keep.txt"), "mine");
}

#[test]
fn a_folder_that_is_no_model_is_said_to_be_none() {
    let desk = Desk::new();
    fs::create_dir(desk.path("empty")).unwrap();
    fails(&desk, &MINE.replace("path model", "path empty"), "empty", "");
    fails(&desk, &MINE.replace("path model", "path ./missing"), "no such folder", "config.json");
    fails(&desk, &MINE.replace("path model", "path owner/missing"), "HF_HUB_OFFLINE is set", "model folder");
    fs::remove_file(desk.path("model/modules.json")).unwrap();
    fails(&desk, MINE, "modules.json", "--pooling");
}

#[test]
fn a_damaged_weights_file_is_an_error() {
    let desk = Desk::new();
    let whole = fs::read(desk.path("model/model.safetensors")).unwrap();
    let mut lying = whole.clone();
    lying[..8].copy_from_slice(&u64::MAX.to_le_bytes());
    for damaged in [&whole[..whole.len() - 100], &whole[..4], &lying[..], b""] {
        desk.write("model/model.safetensors", damaged);
        fails(&desk, MINE, "model.safetensors", "");
    }
}

#[test]
fn missing_files_and_folders_are_named() {
    let desk = Desk::new();
    fails(&desk, &MINE.replace("rows.jsonl", "missing.jsonl"), "missing.jsonl: cannot read", "");
    fails(
        &desk,
        &format!("{MINE} --range_for_sampling 0-5").replace("out.jsonl", "no/such/out.jsonl"),
        "no/such/out.jsonl",
        "",
    );
    fails(
        &desk,
        "embed --model_name_or_path model --input_file rows.jsonl --output_file v.csv",
        "neither `.npy`",
        "ending",
    );
    fails(
        &desk,
        "embed --model_name_or_path model --input_file rows.jsonl --output_file v.npy --value_type int8",
        "a `.npy` file holds f32 or f16, not i8",
        "`.safetensors`",
    );
}

#[test]
#[cfg(target_os = "linux")]
fn a_full_disk_is_an_error() {
    let desk = Desk::new();
    let full = MINE.replace("out.jsonl", "/dev/full");
    fails(
        &desk,
        &format!("{full} --range_for_sampling 0-5 --negative_number 1"),
        "/dev/full: cannot write",
        "free some space",
    );
}

#[test]
fn wrong_flags_and_values_are_usage_errors() {
    let desk = Desk::new();
    for (arguments, expected) in [
        ("train --learning-rat 1", "--learning_rate"),
        ("mine", "--model_name_or_path"),
        (&format!("{MINE} --pooling median"), "weightedmean"),
        (&format!("{MINE} --range_for_sampling 10-2"), "10 is not less than 2"),
        (&format!("{MINE} --normalized maybe"), "expected True or False"),
        (&format!("{TRAIN} --max_steps many"), "whole number"),
        (&format!("{TRAIN} --save_steps 1.5"), "expected a number of steps, or a share of all steps below 1"),
        (&format!("{TRAIN} --eval_steps many"), "expected a number of steps"),
        (&format!("{TRAIN} --eval_split 0.1 --metric_for_best_model accuracy"), "loss, mrr@10, ndcg@10 or hit@1"),
        (&format!("{TRAIN} --save_strategy best"), "no, steps or epoch"),
        (&format!("{TRAIN} --lr_scheduler_type cosin"), "is not known, one of linear, cosine, "),
        (
            &format!("{TRAIN} --lr_scheduler_type reduce_lr_on_plateau"),
            "by the step alone, not by what was measured, one of linear",
        ),
        (&format!("{TRAIN} --lr_scheduler_type cosine_with_min_lr"), "`min_lr_ratio`"),
    ] {
        let done = desk.run(arguments);
        assert_eq!(done.code, 2, "{arguments}");
        assert!(done.stderr.contains(expected), "{arguments}\n{}", done.stderr);
    }
    fails(&desk, &format!("{TRAIN} --deepspeed ds.json"), "`--deepspeed` is not supported", "--shard_optimizer");
    fails(&desk, &format!("{TRAIN} --load_best_model_at_end"), "needs an evaluation", "--eval_split");
    fails(
        &desk,
        &format!("{TRAIN} --resume_from_checkpoint nowhere"),
        "nowhere: is no checkpoint",
        "checkpoint-<step>",
    );
    fails(&desk, &format!("{MINE} --threads 0"), "--threads 0", "one thread per core");
    assert_eq!(desk.names(), ["model", "pool.jsonl", "rows.jsonl"]);
}

#[test]
fn mining_flags_that_do_not_fit_together_are_refused() {
    let desk = Desk::new();
    let no_model = MINE.replace("--model_name_or_path model ", "");
    for (arguments, message, hint) in [
        (format!("{MINE} --review r.jsonl"), "no rule suspects", "--preset nv-retriever"),
        (format!("{MINE} --range_min 5 --range_max 5"), "`--range_min 5` is not less", ""),
        (format!("{MINE} --min_score 0.5 --max_score -0.5"), "no score is between", ""),
        (format!("{no_model} --ranking hybrid"), "`--model_name_or_path` is missing", "--query_vectors"),
        (format!("{MINE} --negative_number 0"), "at least 1 is needed", "preset"),
    ] {
        fails(&desk, &arguments, message, hint);
    }
    for (arguments, expected) in [
        (no_model.clone(), "--model_name_or_path"),
        (format!("{MINE} --range_for_sampling 2-10 --range_min 3"), "cannot be used with"),
        (format!("{no_model} --query_vectors q.npy"), "--passage_vectors"),
        (format!("{MINE} --preset best"), "nv-retriever"),
    ] {
        let done = desk.run(&arguments);
        assert_eq!(done.code, 2, "{arguments}");
        assert!(done.stderr.contains(expected), "{arguments}\n{}", done.stderr);
    }
}

#[test]
fn help_names_every_command_and_the_defaults() {
    let desk = Desk::new();
    let help = desk.run("--help").ok().stdout;
    for command in ["mine", "mine_hard_neg", "train", "finetune", "evaluate", "compare", "embed"] {
        assert!(help.contains(command), "{command}");
    }
    assert!(!help.contains("gen_docs"));
    let train = desk.run("train --help").ok().stdout;
    assert!(train.contains("[default: 0.02]") && train.contains("Examples:"), "{train}");
}

//! Commands that work: the original's command lines, both spellings, the whole job on fifty rows.

use std::fs;
use std::io::Write;
use std::process::Stdio;

use crate::command::{Desk, Done};

#[test]
fn mine_train_evaluate_and_embed_work_together() {
    let desk = Desk::new();
    // The original's own command lines, with the names of the files changed.
    let mined = desk
        .run(
            "mine_hard_neg --model_name_or_path model --input_file rows.jsonl --output_file mined.jsonl \
              --range_for_sampling 2-10 --negative_number 5 --use_gpu_for_searching",
        )
        .ok();
    assert!(mined.stderr.contains("the search runs on the CPU"), "{}", mined.stderr);
    assert_eq!(mined.stdout, "");
    let rows = desk.read("mined.jsonl");
    assert_eq!(rows.lines().count(), 50);
    for row in rows.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()) {
        let negatives = row["neg"].as_array().unwrap();
        assert_eq!(negatives.len(), 5);
        assert!(!negatives.contains(&row["pos"][0]));
    }

    let trained = desk
        .run(
            "finetune --output_dir tuned --model_name_or_path model --train_data mined.jsonl --learning_rate 1e-5 \
              --num_train_epochs 1 --per_device_train_batch_size 1 --dataloader_drop_last True --normalized True \
              --temperature 0.02 --query_max_len 64 --passage_max_len 256 --train_group_size 2 --logging_steps 10 \
              --query_instruction_for_retrieval \"\" --bf16 True --negatives_cross_device",
        )
        .ok();
    assert!(trained.stderr.contains("warning: `--per_device_train_batch_size 1`"), "{}", trained.stderr);
    assert!(trained.stderr.contains("`--negatives_cross_device`"), "{}", trained.stderr);
    for file in ["config.json", "model.safetensors", "modules.json", "1_Pooling/config.json", "tokenizer.json"] {
        assert!(desk.path("tuned").join(file).is_file(), "{file}");
    }

    let evaluate = "evaluate --index_file_jsonl_path pool.jsonl --query_file_jsonl_path rows.jsonl --cutoffs 1,10";
    let table = desk.run(&format!("{evaluate} --model_name tuned")).ok();
    let lines: Vec<_> = table.stdout.lines().collect();
    assert_eq!(lines[0], "tuned: 50 queries, 50 candidates");
    assert_eq!(lines[1].split_whitespace().collect::<Vec<_>>(), ["@1", "@10"]);
    assert!(lines[2].starts_with("MRR") && lines.len() == 9, "{}", table.stdout);
    let json = desk.run(&format!("{evaluate} --model_name_or_path tuned --json")).ok();
    let json: serde_json::Value = serde_json::from_str(&json.stdout).unwrap();
    assert_eq!(json["n_queries"], 50);
    assert_eq!(json["scores"]["MRR@1"], json["scores"]["Hit@1"]);
    assert_eq!(
        lines[2].split_whitespace().nth(1).unwrap(),
        format!("{:.4}", json["scores"]["MRR@1"].as_f64().unwrap())
    );

    desk.write("texts.txt", "one text\nanother text\n");
    desk.run("embed --model_name_or_path tuned --input_file texts.txt --output_file v.npy --role query").ok();
    assert_eq!(fs::metadata(desk.path("v.npy")).unwrap().len(), 128 + 2 * 48 * 4);
}

#[test]
fn mining_by_words_by_vectors_and_with_a_review_needs_no_model() {
    let desk = Desk::new();
    let mine = "mine --input_file rows.jsonl --candidate_pool pool.jsonl --preset nv-retriever --output_file";
    let row = |file: &str| serde_json::from_str::<serde_json::Value>(desk.read(file).lines().next().unwrap()).unwrap();
    let done = desk.run(&format!("{mine} words.jsonl --ranking bm25 --review review.jsonl --relative_margin 0.9")).ok();
    assert!(done.stderr.contains("review.jsonl: "), "{}", done.stderr);
    assert!(desk.read("review.jsonl").lines().next().unwrap().ends_with(r#""verdict":""}"#));
    assert_eq!(row("words.jsonl")["pos_scores"].as_array().unwrap().len(), 1);

    let texts: String = desk.read("pool.jsonl").replace("context\": [", "text\": ").replace("]}", "}");
    desk.write("texts.jsonl", texts);
    for (input, role, output) in [("rows.jsonl", "query", "q.npy"), ("texts.jsonl", "passage", "p.safetensors")] {
        desk.run(&format!(
            "embed --model_name_or_path model --input_file {input} --role {role} --output_file {output}"
        ))
        .ok();
    }
    desk.run(&format!("{mine} vectors.jsonl --query_vectors q.npy --passage_vectors p.safetensors")).ok();
    desk.run(&format!("{mine} model.jsonl --model_name_or_path model")).ok();
    assert_eq!(desk.read("vectors.jsonl"), desk.read("model.jsonl"));

    let embed = "embed --model_name_or_path model --input_file texts.jsonl --output_file bytes.safetensors";
    desk.run(&format!("{embed} --value_type int8")).ok();
    let sizes = ["p.safetensors", "bytes.safetensors"].map(|file| fs::metadata(desk.path(file)).unwrap().len());
    assert!(sizes[1] < sizes[0] / 3, "{sizes:?}");
    let from_bytes = "--query_vectors q.npy --passage_vectors bytes.safetensors";
    desk.run(&format!("{mine} bytes.jsonl {from_bytes}")).ok();
    assert_eq!(desk.read("bytes.jsonl").lines().count(), desk.read("model.jsonl").lines().count());
}

#[test]
fn both_spellings_of_flags_and_booleans_give_the_same_file() {
    let desk = Desk::new();
    desk.run(
        "mine --model_name_or_path model --input_file rows.jsonl --output_file a.jsonl --range_for_sampling 2-10 \
              --negative_number 3 --normalized True --seed 7",
    )
    .ok();
    desk.run(
        "mine --model-name-or-path=model --input-file rows.jsonl --output-file=b.jsonl --range-for-sampling 2-10 \
              --negative-number=3 --normalized --seed 7 --threads 1",
    )
    .ok();
    assert_eq!(desk.read("a.jsonl"), desk.read("b.jsonl"));
}

#[test]
fn other_losses_run_from_the_command_line_and_the_log_counts_what_is_masked() {
    let desk = Desk::new();
    let train = |arguments: &str| {
        let common = "--model_name_or_path model --train_group_size 1 --max_steps 2 --logging_steps 1";
        desk.run(&format!("train {common} {arguments}")).ok()
    };
    train(
        "--train_data rows.jsonl --output_dir guided --guide_model model --directions gist --temperature_learning_rate 0.1",
    );
    let log = desk.read("guided/log.jsonl");
    let line: serde_json::Value = serde_json::from_str(log.lines().nth(1).unwrap()).unwrap();
    assert!(line["masked_similar"].as_u64().unwrap() > 0, "{line}");
    assert!(line["temperature"].as_f64().unwrap() != 0.02, "{line}");
    let pair = |i: usize| format!(r#"{{"sentence1": "a map {i}", "sentence2": "a plan {i}", "score": {}}}"#, i % 3);
    desk.write("pairs.jsonl", (0..16).map(pair).collect::<Vec<_>>().join("\n"));
    train("--train_data pairs.jsonl --output_dir scored --loss cosent --matryoshka_dims 48 12");
    let record: serde_json::Value = serde_json::from_str(&desk.read("scored/run.json")).unwrap();
    assert_eq!(record["settings"]["loss"]["name"], "cosent");
    assert_eq!(record["counts"]["queries_without_negative"], 0);
}

#[test]
fn texts_come_from_standard_input_in_either_form() {
    let desk = Desk::new();
    let embed = |arguments: &str, input: &str| {
        let mut child = desk
            .command(&format!("embed --model_name_or_path model {arguments}"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        Done::of(child.wait_with_output().unwrap()).ok();
    };
    embed("--output_file lines.npy", "a text\nand one more\n");
    embed("--output_file json.npy --input_format jsonl", "{\"text\": \"a text\"}\n{\"text\": \"and one more\"}\n");
    assert_eq!(fs::read(desk.path("lines.npy")).unwrap(), fs::read(desk.path("json.npy")).unwrap());
}

#[test]
fn a_name_of_the_hub_is_found_in_its_cache() {
    let desk = Desk::new();
    let repository = desk.path("cache/models--sentence-transformers--tiny");
    fs::create_dir_all(repository.join("snapshots")).unwrap();
    fs::create_dir_all(repository.join("refs")).unwrap();
    fs::write(repository.join("refs/main"), "abc").unwrap();
    fs::rename(desk.path("model"), repository.join("snapshots/abc")).unwrap();
    desk.write("texts.txt", "one text\n");
    let arguments = "embed --model_name_or_path tiny --input_file texts.txt --output_file v.npy";
    Done::of(desk.command(arguments).env("HF_HUB_CACHE", desk.path("cache")).output().unwrap()).ok();
}

#[test]
fn the_reference_pages_are_current() {
    for (flags, page) in [("", "docs/cli.md"), ("--arguments", "docs/guide/arguments.md")] {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(page);
        let current = Desk::new().run(&format!("gen_docs {flags}")).ok().stdout;
        assert!(fs::read_to_string(path).unwrap() == current, "{page} is not current: run `cargo xtask gen-docs`");
    }
}

#[test]
fn the_settings_that_a_run_leaves_behind_repeat_it() {
    let desk = Desk::new();
    desk.write(
        "job.json",
        r#"{"model_name_or_path": "model", "train_data": "rows.jsonl", "output_dir": "first", "max_steps": 2}"#,
    );
    desk.run("train --config job.json --train_group_size 1 --warmup_steps 1 --seed 7 --matryoshka_dims 8 4").ok();
    desk.run("train --config first/run.toml --output_dir second").ok();
    assert!(
        fs::read(desk.path("first/model.safetensors")).unwrap()
            == fs::read(desk.path("second/model.safetensors")).unwrap()
    );
    let settings = |name: &str| desk.read(name).replace("\"second\"", "\"first\"");
    assert_eq!(settings("first/run.toml"), settings("second/run.toml"));
    let done = desk.run("train --config first/run.toml --output_dir third --learning_rate=-1");
    assert!(done.stderr.contains("`--learning_rate -1`") && !done.stderr.contains("is from"), "{}", done.stderr);
}

#[test]
fn a_reader_that_closes_early_is_no_error() {
    let desk = Desk::new();
    let mut child = desk.command("gen_docs").stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let done = Done::of(child.wait_with_output().unwrap());
    assert_eq!((done.code, done.stderr.as_str()), (0, ""));
}

#[test]
fn held_out_queries_that_are_trained_on_are_warned_of() {
    let desk = Desk::new();
    let rows = desk.read("rows.jsonl");
    let lines =
        |from: usize, n: usize| rows.lines().skip(from).take(n).map(|row| format!("{row}\n")).collect::<String>();
    desk.write("train.jsonl", lines(0, 40));
    let train = "train --model_name_or_path model --train_data train.jsonl --train_group_size 1 --max_steps 1 --query_max_len 16 \
                 --passage_max_len 16 --eval_data dev.jsonl --output_dir";
    for (out, from, said) in [("leaking", 37, true), ("apart", 40, false)] {
        desk.write("dev.jsonl", lines(from, 8));
        let done = desk.run(&format!("{train} {out}")).ok();
        assert_eq!(done.stderr.contains("3 of 8 queries of dev.jsonl are trained on, too"), said, "{}", done.stderr);
    }
}

//! `report` and `tune` as commands: pages that need no network and escape what they show, stages that are not done twice.

use std::fs;

use crate::command::Desk;

const SETS: &str = "--index_file_jsonl_path pool.jsonl --query_file_jsonl_path rows.jsonl";
const TRAIN: &str = "train --model_name_or_path model --train_data rows.jsonl --train_group_size 1 --per_device_train_batch_size 10 \
                     --learning_rate 1e-3 --num_train_epochs 2 --query_max_len 16 --passage_max_len 16 --logging_steps 2";

/// Whether every element that is opened is closed, in order.
fn is_well_formed(page: &str) -> Result<(), String> {
    const VOID: [&str; 5] = ["meta", "br", "input", "hr", "!DOCTYPE"];
    let mut open = Vec::new();
    let mut rest = page;
    while let Some((_, after)) = rest.split_once('<') {
        let (tag, after) = after.split_once('>').ok_or("a tag that does not end")?;
        rest = after;
        let name = tag.trim_start_matches('/').split([' ', '\n', '/']).next().unwrap_or_default();
        if tag.starts_with('/') {
            let last = open.pop();
            if last != Some(name) {
                return Err(format!("`{name}` closes {last:?}"));
            }
        } else if ["style", "script"].contains(&name) {
            let end = format!("</{name}>");
            rest = rest.split_once(end.as_str()).ok_or(end.clone())?.1;
        } else if !VOID.contains(&name) && !tag.ends_with('/') {
            open.push(name);
        }
    }
    if open.is_empty() { Ok(()) } else { Err(format!("left open: {open:?}")) }
}

#[test]
fn a_report_is_one_file_that_escapes_texts_and_can_leave_them_out() {
    let desk = Desk::new();
    let rows = desk.read("rows.jsonl").replace("\"editor reads\"", "\"<script>alert(1)</script> & editor reads\"");
    desk.write("rows.jsonl", rows);
    desk.run(&format!("{TRAIN} --output_dir tuned --eval_split 0.2")).ok();
    let without = desk.run("report tuned").ok();
    assert!(without.stderr.contains("no verdict yet"), "{}", without.stderr);
    assert!(desk.read("tuned/report.html").contains("Not compared yet"));

    desk.run(&format!("compare model tuned {SETS} --save_verdict tuned")).ok();
    desk.run("report tuned").ok();
    let page = desk.read("tuned/report.html");
    assert_eq!(is_well_formed(&page), Ok(()));
    assert!(!page.contains("http://") && !page.contains("https://") && !page.contains("src="));
    assert_eq!(page.matches("<script").count(), 1, "the page's own");
    let verdict: serde_json::Value = serde_json::from_str(&desk.read("tuned/verdict.json")).unwrap();
    let sentence = verdict["verdict"].as_str().unwrap();
    assert!(page.contains(sentence) && desk.read("tuned/report.md").contains(sentence));
    for heading in ["Metrics", "Ranks", "Similarity", "Training", "Settings", "Time and memory"] {
        assert!(page.contains(&format!(">{heading}</h2>")), "{heading}");
    }
    assert!(page.contains("a program that"));

    let card = desk.read("tuned/README.md");
    assert!(card.starts_with("---\nlibrary_name: sentence-transformers\n") && card.contains(sentence), "{card}");
    assert!(!card.contains("program") && !card.contains("rows.jsonl") && !card.contains("base_model"), "{card}");
    desk.write("tuned/README.md", "my own");

    desk.run("report tuned --no_texts").ok();
    assert_eq!(desk.read("tuned/README.md"), "my own");
    let page = desk.read("tuned/report.html");
    assert!(!page.contains("a program that") && !page.contains("alert(1)"));
    assert!(!desk.read("tuned/report.md").contains("program"));

    desk.run("report tuned tuned --output both.html").ok();
    let page = desk.read("both.html");
    assert_eq!((is_well_formed(&page), page.matches(sentence).count()), (Ok(()), 2));
    let done = desk.run("report model");
    assert_eq!(done.code, 2);
    assert!(done.stderr.contains("there is no `run.json` in it"), "{}", done.stderr);
}

#[test]
fn the_command_in_a_report_repeats_the_run() {
    let desk = Desk::new();
    desk.run(&format!("{TRAIN} --output_dir tuned --mask_margin 0.5 --temperature 0.05")).ok();
    desk.run("report tuned").ok();
    let page = desk.read("tuned/report.html");
    let command = page.split_once("<code>embertune train").unwrap().1.split_once("</code>").unwrap().0;
    let command = command.replace("\\\n", " ").replace("--output_dir tuned", "--output_dir again");
    desk.run(&format!("train {command}")).ok();
    let weights = |folder: &str| fs::read(desk.path(folder).join("model.safetensors")).unwrap();
    assert!(weights("tuned") == weights("again"), "the same settings, the same weights");
}

#[test]
fn tune_does_it_all_and_nothing_twice() {
    let desk = Desk::new();
    let tune = "tune rows.jsonl --model model --out all --learning_rate 1e-3 --num_train_epochs 1 --threads 2";
    let plan = desk.run(&format!("{tune} --dry_run")).ok();
    assert!(plan.stdout.contains("embertune split rows.jsonl --out all/data"), "{}", plan.stdout);
    assert!(!desk.path("all").exists(), "a dry run writes nothing");

    let first = desk.run(tune);
    assert!([0, 1].contains(&first.code), "{}\n{}", first.stdout, first.stderr);
    for file in ["model/model.safetensors", "verdict.json", "report.html", "report.md", "audit.html", "base.json"] {
        assert!(desk.path("all").join(file).is_file(), "{file}");
    }
    // By the mining with the base model, and by `compare` with the tuned one.
    let kept = "vectors of 50 of 50 passages are in all/vectors";
    assert_eq!(first.stderr.matches(kept).count(), 2, "{}", first.stderr);
    let verdict: serde_json::Value = serde_json::from_str(&desk.read("all/verdict.json")).unwrap();
    assert_eq!(first.code == 0, verdict["finding"] == "better");
    assert_eq!(first.stdout.lines().last(), verdict["verdict"].as_str());

    let second = desk.run(tune);
    assert_eq!((second.code, second.stderr.matches("done before").count()), (first.code, 7), "{}", second.stderr);
    // What is gone is made again, and as it was, so that nothing follows from it.
    fs::remove_dir_all(desk.path("all/data")).unwrap();
    fs::remove_file(desk.path("all/base.json")).unwrap();
    let again = desk.run(tune);
    assert_eq!((again.code, again.stderr.matches("done before").count()), (first.code, 5), "{}", again.stderr);
    // A file between the stages was changed: what follows from it is done again, and nothing else.
    let mined = desk.read("all/train.mined.jsonl");
    desk.write("all/train.mined.jsonl", mined.lines().skip(1).map(|line| format!("{line}\n")).collect::<String>());
    let third = desk.run(tune);
    assert_eq!(third.stderr.matches("done before").count(), 4, "{}", third.stderr);

    let done = desk.run("tune rows.jsonl --model model --out model");
    assert_eq!(done.code, 2);
    assert!(done.stderr.contains("not a folder that `tune` has begun"), "{}", done.stderr);
}

#[test]
fn tune_keeps_the_base_model_where_training_only_did_harm_and_says_so() {
    let desk = Desk::new();
    desk.run(&TRAIN.replace("--num_train_epochs 2", "--num_train_epochs 20 --output_dir good")).ok();
    let done = desk.run("tune rows.jsonl --model good --out all --learning_rate 0.3 --num_train_epochs 1 --threads 2");
    let said = "so the base model is what was saved";
    assert_eq!(done.code, 1, "{}", done.stderr);
    let last = done.stdout.lines().last().unwrap();
    assert!(last.starts_with("no difference: MRR@10 is the same") && last.ends_with(said), "{last}");
    assert!(!done.stderr.contains("the model is that of step"), "{}", done.stderr);
    assert!(desk.read("all/report.html").contains(said) && desk.read("all/report.md").contains(said));
    // Who asks for the base model gets it without that.
    desk.run(&format!("{TRAIN} --output_dir asked --merge_alpha 0")).ok();
    desk.run("compare model asked --index_file_jsonl_path pool.jsonl --query_file_jsonl_path rows.jsonl --save_verdict asked").ok();
    desk.run("report asked").ok();
    assert!(!desk.read("asked/report.md").contains(said));
}

#[test]
fn tune_says_before_it_begins_what_would_fail_later() {
    let desk = Desk::new();
    let rows = desk.read("rows.jsonl");
    desk.write("few.jsonl", rows.lines().take(9).map(|row| format!("{row}\n")).collect::<String>());
    for (flags, said) in [
        ("tune few.jsonl", "9 different queries are too few"),
        ("tune rows.jsonl --slice_by topick", "no query has a field `topick` to slice by"),
        ("tune rows.jsonl --probe nowhere", "nowhere: there is no such file or folder"),
        ("tune rows.jsonl --probe pool.jsonl,nowhere.jsonl", "nowhere.jsonl: there is no such file or folder"),
    ] {
        for dry_run in ["", "--dry_run"] {
            let done = desk.run(&format!("{flags} --model model --out all {dry_run}"));
            assert_eq!(done.code, 2, "{flags}: {}", done.stdout);
            assert!(done.stderr.contains(said), "{}", done.stderr);
            assert!(!desk.path("all").exists(), "{flags}");
        }
    }
}

#[test]
fn tune_learns_from_nothing_that_it_is_tested_on() {
    let desk = Desk::new();
    let rows = desk.read("rows.jsonl");
    desk.write("test.jsonl", rows.lines().take(15).map(|row| format!("{row}\n")).collect::<String>());
    let tune = "tune rows.jsonl --model model --learning_rate 1e-3 --num_train_epochs 1 --threads 2 --out";
    let done = desk.run(&format!("{tune} all --test test.jsonl"));
    assert!([0, 1].contains(&done.code), "{}", done.stderr);
    assert!(
        done.stderr.contains("15 queries are in test.jsonl, or nearly: their rows are left out"),
        "{}",
        done.stderr
    );
    let learned = desk.read("all/train.mined.jsonl") + &desk.read("all/data/dev.jsonl");
    let query = |row: &str| serde_json::from_str::<serde_json::Value>(row).unwrap()["query"].to_string();
    assert!(rows.lines().take(15).all(|row| !learned.contains(&query(row))));
    assert!(rows.lines().skip(15).all(|row| learned.contains(&query(row))));
    let done = desk.run(&format!("{tune} none --test rows.jsonl"));
    assert_eq!(done.code, 2);
    assert!(done.stderr.contains("all 50 different queries are among those"), "{}", done.stderr);
    // What a write that was killed has left is swept up by the next start.
    fs::create_dir(desk.path("none/.embertune-abc")).unwrap();
    desk.write("none/.embertune-xyz", "a text");
    desk.run(&format!("{tune} none --test rows.jsonl"));
    assert!(!desk.path("none/.embertune-abc").exists() && !desk.path("none/.embertune-xyz").exists());
}

#[test]
fn tune_takes_tables_columns_changes_of_the_model_and_fields_to_slice_by() {
    let desk = Desk::new();
    let rows = desk.read("rows.jsonl");
    let rows = rows.lines().map(|row| serde_json::from_str::<serde_json::Value>(row).unwrap());
    let records: Vec<_> = rows.map(|row| format!("{},{},tools\n", row["query"], row["pos"][0])).collect();
    desk.write("known.csv", format!("query,pos,topic\n{}", records.concat()));
    desk.write("named.csv", format!("question,answer,topic\n{}", records.concat()));
    let flags = "--model model --learning_rate 1e-3 --num_train_epochs 1 --threads 2 --query_instruction_for_retrieval ask: \
        --slice_by topic --precision fp32";
    for (out, columns) in [("known", "--no_texts"), ("named", "--columns query=question,pos=answer")] {
        let done = desk.run(&format!("tune {out}.csv --out {out} {flags} {columns}"));
        assert!([0, 1].contains(&done.code), "{}\n{}", done.stdout, done.stderr);
        assert!(done.stdout.contains(&format!("embertune convert {out}.csv {out}/rows.jsonl")), "{}", done.stdout);
        for command in ["evaluate", "mine", "train"] {
            let line = done.stdout.lines().find(|line| line.contains(&format!("embertune {command} "))).unwrap();
            assert!(line.contains("ask:") && line.contains("--precision fp32"), "{line}");
        }
        assert!(desk.read(&format!("{out}/model/config_sentence_transformers.json")).contains("ask:"));
        // A field that the queries do not have would be an error.
        let compare = done.stdout.lines().find(|line| line.contains("embertune compare ")).unwrap();
        assert!(compare.contains("--slice_by topic"), "{compare}");
    }
}

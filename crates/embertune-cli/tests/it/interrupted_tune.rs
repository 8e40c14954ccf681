//! `tune`, killed or interrupted in any of its stages, goes on with the same command and ends as if nothing had happened.

use std::fs;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::command::Desk;

/// In the order of `tune`.
const STAGES: [&str; 7] = ["audit", "split", "baseline", "mine", "train", "compare", "report"];

/// Steps enough for a checkpoint, which comes every 200.
const TUNE: &str = "tune rows.jsonl --model model --out all --learning_rate 1e-3 --per_device_train_batch_size 2 \
    --num_train_epochs 13 --threads 1";

/// What has to be the same. The other files tell times.
const LEFT: [&str; 10] = [
    "audit.html",
    "audit.json",
    "data/train.jsonl",
    "data/dev.jsonl",
    "data/test.jsonl",
    "base.json",
    "train.mined.jsonl",
    "model/model.safetensors",
    "verdict.json",
    "pool.jsonl",
];

fn start(desk: &Desk, tune: &str) -> Child {
    let said = fs::File::create(desk.path("stderr.txt")).unwrap();
    desk.command(tune).stdout(Stdio::null()).stderr(said).spawn().unwrap()
}

/// Waits until the stage has begun, or the process has ended. Gives whether it lives.
fn wait_for(desk: &Desk, child: &mut Child, stage: usize) -> bool {
    let heading = format!("[{}/{}] {}: ", stage + 1, STAGES.len(), STAGES[stage]);
    while child.try_wait().unwrap().is_none() {
        if desk.read("stderr.txt").contains(&heading) {
            return true;
        }
        sleep(Duration::from_micros(200));
    }
    false
}

/// The stage that was begun and not done.
fn stage_of_death(desk: &Desk) -> Option<usize> {
    let state: Value = serde_json::from_str(&desk.read("all/tune.json")).unwrap();
    STAGES.iter().position(|name| state["stages"][name]["is_done"] == false)
}

fn left(desk: &Desk) -> Vec<Vec<u8>> {
    LEFT.iter().map(|name| fs::read(desk.path("all").join(name)).unwrap()).collect()
}

/// Kills `tune` so many times in each stage, and lets it end each time.
#[test]
#[ignore = "a minute"]
fn a_kill_in_any_stage_changes_no_bit_of_what_tune_leaves() {
    let desk = Desk::new();
    assert!([0, 1].contains(&desk.run(TUNE).code));
    let expected = left(&desk);
    let mut report = Vec::new();
    for (stage, name) in STAGES.iter().enumerate() {
        let (mut n_killed, mut n_resumed) = (0, 0);
        for attempt in 0_u64.. {
            assert!(attempt < 60, "{name}: {n_killed} kills");
            fs::remove_dir_all(desk.path("all")).unwrap();
            let mut child = start(&desk, TUNE);
            assert!(wait_for(&desk, &mut child, stage), "{}", desk.read("stderr.txt"));
            let checkpoint = desk.path("all/model.partial/checkpoint-200");
            let waits_for_checkpoint = *name == "train" && attempt % 2 == 1;
            while waits_for_checkpoint && !checkpoint.exists() && child.try_wait().unwrap().is_none() {
                sleep(Duration::from_micros(200));
            }
            sleep(Duration::from_micros(attempt * 7919 % 20_000));
            child.kill().unwrap();
            child.wait().unwrap();
            let died_in = stage_of_death(&desk);
            let has_checkpoint = checkpoint.exists();
            let code = start(&desk, TUNE).wait().unwrap().code();
            let said = desk.read("stderr.txt");
            assert!([Some(0), Some(1)].contains(&code), "{said}");
            assert!(left(&desk) == expected, "killed in {name}: {said}");
            let names = fs::read_dir(desk.path("all/model")).unwrap().map(|entry| entry.unwrap().file_name());
            assert!(!names.into_iter().any(|name| name.to_string_lossy().starts_with("checkpoint-")), "{said}");
            assert_eq!(said.contains("goes on after step 200"), has_checkpoint, "{said}");
            n_killed += usize::from(died_in == Some(stage));
            n_resumed += usize::from(has_checkpoint);
            if n_killed >= 3 && (*name != "train" || n_resumed >= 2) {
                break;
            }
        }
        report.push(format!("{name} {n_killed}"));
    }
    println!("kills: {}", report.join(", "));
}

#[test]
#[cfg(unix)]
fn ctrl_c_after_its_training_ends_tune_at_once() {
    let desk = Desk::new();
    let tune = "tune rows.jsonl --model model --out all --num_train_epochs 1 --threads 1";
    // The stage after the training is short: the signal may come when it is over.
    for _ in 0..20 {
        let mut child = start(&desk, tune);
        assert!(wait_for(&desk, &mut child, 5), "{}", desk.read("stderr.txt"));
        assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
        let asked = Instant::now();
        if child.wait().unwrap().code() == Some(130) {
            assert!(asked.elapsed() < Duration::from_secs(1));
            let done = desk.run(tune);
            assert!([0, 1].contains(&done.code), "{}", done.stderr);
            assert!(done.stderr.contains("[5/7] train: done before"), "{}", done.stderr);
            return;
        }
        fs::remove_dir_all(desk.path("all")).unwrap();
    }
    panic!("never interrupted: {}", desk.read("stderr.txt"));
}

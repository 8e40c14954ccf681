//! Trainings that are killed or interrupted at any instant, and go on.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::command::{Desk, Done};

/// A checkpoint after every step, so that about half of the time one is being written; evaluations and a best model on the way.
const TRAIN: &str = "train --model_name_or_path model --train_data rows.jsonl --train_group_size 1 --learning_rate 1e-2 \
    --per_device_train_batch_size 8 --max_steps 24 --logging_steps 3 --save_steps 1 --save_total_limit 2 --eval_split 0.2 \
    --eval_steps 4 --load_best_model_at_end --metric_for_best_model loss --resume_from_checkpoint last --threads 1";

/// About what it takes to put the output folder together.
const FINISH: Duration = Duration::from_millis(40);

/// What has to be the same: the models, and the log without its times.
type Outcome = (Vec<u8>, Option<Vec<u8>>, Vec<Value>);

fn outcome(folder: &Path) -> Outcome {
    let log = fs::read_to_string(folder.join("log.jsonl")).unwrap();
    let lines = log.lines().map(|line| {
        let mut line: Value = serde_json::from_str(line).unwrap();
        for timed in ["examples_per_s", "tokens_per_s", "eval_seconds"] {
            line.as_object_mut().unwrap().remove(timed);
        }
        line
    });
    let model = fs::read(folder.join("model.safetensors")).unwrap();
    (model, fs::read(folder.join("last/model.safetensors")).ok(), lines.collect())
}

fn start(desk: &Desk, output: &str) -> Child {
    let said = fs::File::create(desk.path("stderr.txt")).unwrap();
    desk.command(&format!("{TRAIN} --output_dir {output}")).stdout(Stdio::null()).stderr(said).spawn().unwrap()
}

/// Numbers from 0 to 1 that look random.
fn random(state: &mut u64) -> f64 {
    *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    (*state >> 11) as f64 / (1_u64 << 53) as f64
}

/// The names in a folder that may not be there.
fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten();
    // Another process removes what is being listed.
    entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect()
}

/// Whether the output folder is being put together.
fn is_finishing(partial: &Path) -> bool {
    names(partial).iter().any(|name| [".model", "model", ".last", "last"].iter().any(|start| name.starts_with(start)))
}

/// Trains again and again, killing each process at a random instant and resuming, until `n_kills` processes were killed; every run that
/// becomes complete is compared with one that was left alone. Every third process is killed while it puts the output folder
/// together, which is too short to be hit by chance.
fn kill(n_kills: usize) {
    let desk = Desk::new();
    let began = Instant::now();
    assert!(start(&desk, "whole").wait().unwrap().success(), "{}", desk.read("stderr.txt"));
    let took = began.elapsed();
    let expected = outcome(&desk.path("whole"));
    assert!(expected.1.is_some(), "the best step should not be the last one, to test both");

    let mut state = 42;
    let (mut killed, mut in_checkpoint, mut in_finish, mut n_runs, mut n_started) = (0, 0, 0, 0, 0);
    while killed < n_kills {
        let name = format!("out{n_runs}");
        let partial = desk.path(&format!("{name}.partial"));
        n_runs += 1;
        loop {
            let mut child = start(&desk, &name);
            n_started += 1;
            if n_started % 3 == 0 {
                // By turns from the first file on, and from when the model is whole and its folder is being completed.
                let whole = n_started % 2 == 0;
                let is_time = || if whole { partial.join("model").exists() } else { is_finishing(&partial) };
                while child.try_wait().unwrap().is_none() && !is_time() {
                    sleep(Duration::from_micros(100));
                }
                let rest = if whole { FINISH / 20 } else { FINISH };
                sleep(rest.mul_f64(random(&mut state)));
            } else {
                sleep(took.mul_f64(0.7 * random(&mut state)));
            }
            child.kill().unwrap();
            let status = child.wait().unwrap();
            if !status.success() {
                // Not killed, then: it failed.
                assert_eq!(status.code(), None, "{}", desk.read("stderr.txt"));
                killed += 1;
                in_checkpoint += usize::from(names(&partial).iter().any(|name| name.starts_with(".checkpoint")));
                in_finish += usize::from(is_finishing(&partial));
            }
            if desk.path(&name).exists() {
                assert!(outcome(&desk.path(&name)) == expected, "run {n_runs}, after {killed} kills");
                break;
            }
            assert!(!status.success(), "a run that succeeds leaves its folder");
        }
        fs::remove_dir_all(desk.path(&name)).unwrap();
    }
    println!(
        "{killed} kills over {n_runs} runs of {:.1} s: {in_checkpoint} while a checkpoint was being written, \
         {in_finish} while the output folder was being put together",
        took.as_secs_f64()
    );
}

#[test]
fn a_few_kills_at_random_instants_change_no_bit() {
    kill(6);
}

#[test]
#[ignore = "a few minutes"]
fn sixty_kills_at_random_instants_change_no_bit() {
    kill(60);
}

#[cfg(unix)]
fn interrupt(child: &Child) {
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
}

/// Evaluations of many candidates, so that there is time to interrupt one.
#[cfg(unix)]
const MIX: &str = "train --model_name_or_path model --train_data rows.jsonl --candidate_pool many.jsonl --eval_split 0.2 \
    --train_group_size 1 --learning_rate 1e-2 --max_steps 3 --save_strategy no --merge_alpha auto --threads 1";

#[cfg(unix)]
fn desk_to_mix_at() -> Desk {
    let desk = Desk::new();
    let rest: Vec<_> = (0..20_000).map(|i| format!(r#"{{"context": ["{i} is a number, and no program"]}}"#)).collect();
    desk.write("many.jsonl", format!("{}\n{}", desk.read("pool.jsonl"), rest.join("\n")));
    desk
}

#[test]
#[cfg(unix)]
fn ctrl_c_ends_the_mixing_within_an_evaluation_and_the_run_goes_on_there() {
    let desk = desk_to_mix_at();
    desk.run(&format!("{MIX} --output_dir whole")).ok();
    let said = fs::File::create(desk.path("stderr.txt")).unwrap();
    let mut child =
        desk.command(&format!("{MIX} --output_dir out")).stdout(Stdio::null()).stderr(said).spawn().unwrap();
    let checkpoint = desk.path("out.partial/checkpoint-3");
    while !checkpoint.exists() {
        assert!(child.try_wait().unwrap().is_none(), "{}", desk.read("stderr.txt"));
        sleep(Duration::from_millis(5));
    }
    interrupt(&child);
    let (code, said) = (child.wait().unwrap().code(), desk.read("stderr.txt"));
    assert!(code == Some(130) && said.contains("interrupted after step 3"), "{code:?} {said}");
    assert!(!said.contains("merge: alpha") && !desk.path("out").exists(), "{said}");
    let done = desk.run(&format!("{MIX} --output_dir out --resume_from_checkpoint last")).ok();
    assert!(done.stderr.contains("goes on after step 3") && done.stderr.contains("merge: alpha"), "{}", done.stderr);
    let model = |name: &str| fs::read(desk.path(name).join("model.safetensors")).unwrap();
    assert!(model("out") == model("whole"));
    assert!(!desk.path("out/checkpoint-3").exists() && !desk.path("out.partial").exists());
}

#[test]
#[cfg(unix)]
fn ctrl_c_ends_the_evaluation_of_the_base_model_and_leaves_nothing() {
    let desk = desk_to_mix_at();
    let before = desk.names();
    let mut child = desk.command(&format!("{MIX} --output_dir out")).stderr(Stdio::piped()).spawn().unwrap();
    let mut said = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
    assert!(said.any(|line| line.contains("of evaluating 4 times")));
    interrupt(&child);
    let rest: Vec<_> = said.collect();
    assert_eq!(child.wait().unwrap().code(), Some(130), "{rest:?}");
    assert!(rest.iter().any(|line| line == "interrupted") && !rest.iter().any(|line| line.contains("evaluation:")));
    assert_eq!(desk.names(), before);
}

#[test]
#[cfg(unix)]
fn ctrl_c_ends_with_a_checkpoint_and_says_how_to_go_on() {
    let desk = Desk::new();
    let long = TRAIN.replace("--max_steps 24", "--max_steps 200").replace("--save_steps 1", "--save_strategy no");
    let child = desk
        .command(&format!("{long} --output_dir out --logging_steps 1").replace("--logging_steps 3 ", ""))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let log = desk.path("out.partial/log.jsonl");
    while !fs::read_to_string(&log).is_ok_and(|text| text.contains("\"loss\"")) {
        sleep(Duration::from_millis(5));
    }
    interrupt(&child);
    let done = Done::of(child.wait_with_output().unwrap());
    assert_eq!(done.code, 130, "{}", done.stderr);
    assert!(done.stderr.lines().any(|line| line.starts_with("interrupted after step ")), "{}", done.stderr);
    assert!(
        done.stderr.contains("hint: go on with the same command and `--resume_from_checkpoint last`"),
        "{}",
        done.stderr
    );
    let checkpoints = fs::read_dir(desk.path("out.partial")).unwrap();
    let names: Vec<_> = checkpoints.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    assert_eq!(names.iter().filter(|name| name.starts_with("checkpoint-")).count(), 1, "{names:?}");

    let refused = desk.run(&format!("{} --output_dir out", long.replace("--resume_from_checkpoint last", "")));
    assert_eq!(refused.code, 2);
    assert!(refused.stderr.contains("hint: go on with `--resume_from_checkpoint last`"), "{}", refused.stderr);
}

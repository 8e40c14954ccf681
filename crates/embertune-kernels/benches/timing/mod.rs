//! Timing of one operation: warm-up, then repeats.

use std::time::{Duration, Instant};

/// How long one measurement repeats its operation.
const BUDGET: Duration = Duration::from_millis(300);

/// Runs `work` repeatedly and prints its rates, `amount` units of 1e9 (GFLOP, GB) per run: the best and the median by the
/// clock, and the median per second that a core was busy with it, which other programs on the machine disturb less.
pub fn report(what: &str, unit: &str, amount: f64, mut work: impl FnMut()) {
    work();
    let start = Instant::now();
    let (mut seconds, mut busy_seconds) = (Vec::new(), Vec::new());
    while start.elapsed() < BUDGET || seconds.len() < 5 {
        let (run, busy) = (Instant::now(), busy_ns());
        work();
        seconds.push(run.elapsed().as_secs_f64());
        busy_seconds.push((busy_ns() - busy) as f64 / 1e9);
    }
    seconds.sort_by(f64::total_cmp);
    busy_seconds.sort_by(f64::total_cmp);
    let rate = |seconds: f64| amount / seconds / 1e9;
    let middle = seconds.len() / 2;
    println!(
        "{what:<46} {unit}: best {:6.1}, median {:6.1}, per busy core {:6.1} ({:.3} ms, {} runs)",
        rate(seconds[0]),
        rate(seconds[middle]),
        rate(busy_seconds[middle]),
        seconds[middle] * 1e3,
        seconds.len()
    );
}

/// Nanoseconds that the threads of this process have run, where the system says so; else 0.
fn busy_ns() -> u64 {
    let Ok(tasks) = std::fs::read_dir("/proc/self/task") else { return 0 };
    tasks
        .flatten()
        .filter_map(|task| std::fs::read_to_string(task.path().join("schedstat")).ok())
        .filter_map(|stat| stat.split_whitespace().next()?.parse::<u64>().ok())
        .sum()
}

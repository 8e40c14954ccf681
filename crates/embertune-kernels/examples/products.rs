//! GFLOP/s of the products of linear layers in f32, our tiles beside crate `gemm`, in turns in one process: per second that a core was
//! busy, best and median, and the median ratio. Shapes of MiniLM (width 384) and of BERT-base (width 768). Threads: `RAYON_NUM_THREADS`.

use std::time::{Duration, Instant};

use embertune_kernels::Ops;
use embertune_kernels::cpu::{Cpu, Isa};
use embertune_kernels::ops::{LinearGrads, Weight};
use embertune_kernels::testing::seeded;

/// Per shape: long enough for some runs that nothing disturbs.
const BUDGET: Duration = Duration::from_millis(1500);

fn main() {
    let Some(tiles) = Cpu::with_isa(Isa::Avx512) else {
        println!("This CPU has no AVX-512: all products go through `gemm`.");
        return;
    };
    let Some(gemm) = Cpu::with_isa(Isa::Avx2) else { return };
    println!("{} threads; GFLOP/s by tiles, by gemm", rayon::current_num_threads());
    println!("{:>24} {:>14} {:>14} {:>14}", "", "forward", "d_x", "d_weight");
    for (n, hidden) in [(2048, 384), (512, 384), (2048, 768)] {
        for (cols, rows) in [(hidden, hidden), (hidden, 3 * hidden), (hidden, 4 * hidden), (4 * hidden, hidden)] {
            compare(&tiles, &gemm, n, rows, cols);
        }
    }
}

fn compare(tiles: &Cpu, gemm: &Cpu, n: usize, rows: usize, cols: usize) {
    let start = Instant::now();
    let mut runs: [Vec<[f64; 2]>; 3] = Default::default();
    while start.elapsed() < BUDGET || runs[0].len() < 5 {
        let (tiles, gemm) = (seconds(tiles, n, rows, cols), seconds(gemm, n, rows, cols));
        for (runs, pair) in runs.iter_mut().zip(tiles.into_iter().zip(gemm)) {
            runs.push(pair.into());
        }
    }
    let gflop = 2.0 * (n * rows * cols) as f64 / 1e9;
    print!("{:>22}", format!("n {n}, {cols} -> {rows}"));
    for runs in runs {
        let sorted = |of: &dyn Fn(&[f64; 2]) -> f64| {
            let mut values: Vec<f64> = runs.iter().map(of).collect();
            values.sort_by(f64::total_cmp);
            (values[0], values[values.len() / 2])
        };
        let (tiles, gemm) = (sorted(&|run| run[0]), sorted(&|run| run[1]));
        let ratio = sorted(&|run| run[1] / run[0]).1;
        print!(
            "  {:5.1} {:5.1}, {:5.1} {:5.1}, {ratio:4.2}",
            gflop / tiles.0,
            gflop / tiles.1,
            gflop / gemm.0,
            gflop / gemm.1
        );
    }
    println!();
}

/// Busy seconds of the forward, of `d_x` and of `d_weight`.
fn seconds(ops: &Cpu, n: usize, rows: usize, cols: usize) -> [f64; 3] {
    let upload = |len, seed| ops.upload(&seeded(len, seed));
    let (x, master, d_y) = (upload(n * cols, 1), upload(rows * cols, 2), upload(n * rows, 3));
    let mut d_weight = ops.zeros(rows * cols);
    let packed = ops.pack(&master, rows, cols);
    let w = Weight { master: &master, packed: &packed, rows, cols };
    // A first run for the buffers, then those that count.
    let time = |run: &mut dyn FnMut()| {
        const REPEATS: u32 = 3;
        run();
        let start = busy_ns();
        (0..REPEATS).for_each(|_| run());
        (busy_ns() - start) as f64 / 1e9 / f64::from(REPEATS)
    };
    let forward = time(&mut || drop(ops.linear_forward(&x, w, None)));
    let d_x = time(&mut || drop(ops.linear_backward(&d_y, &x, w, None)));
    let both = time(&mut || {
        let grads = LinearGrads { d_weight: &mut d_weight, d_bias: None };
        drop(ops.linear_backward(&d_y, &x, w, Some(grads)));
    });
    [forward, d_x, both - d_x]
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

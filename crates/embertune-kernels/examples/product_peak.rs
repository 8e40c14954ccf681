//! How fast this machine multiplies matrices with our own kernel: the mark that `cargo xtask bench train` holds a training step
//! against. 2304 tokens through a linear layer 768 -> 768, packed weight, for a second per precision.
//! Prints one line of JSON: `{"fp32": GFLOP/s, "bf16": GFLOP/s or null}`, the best run. Threads: `RAYON_NUM_THREADS`.

use std::time::{Duration, Instant};

use embertune_kernels::Ops;
use embertune_kernels::cpu::Cpu;
use embertune_kernels::ops::Weight;
use embertune_kernels::testing::seeded;

const N_TOKENS: usize = 2304;
const WIDTH: usize = 768;
/// Long enough for the clock of the CPU to settle and for a few undisturbed runs.
const BUDGET: Duration = Duration::from_secs(1);

fn main() {
    let fp32 = peak(&Cpu::new());
    let bf16 = Cpu::bf16().map_or("null".into(), |ops| format!("{:.3}", peak(&ops)));
    println!("{{\"fp32\": {fp32:.3}, \"bf16\": {bf16}}}");
}

/// GFLOP/s of the fastest run.
fn peak(ops: &Cpu) -> f64 {
    let x = ops.upload(&seeded(N_TOKENS * WIDTH, 1));
    let master = ops.upload(&seeded(WIDTH * WIDTH, 2));
    let packed = ops.pack(&master, WIDTH, WIDTH);
    let weight = Weight { master: &master, packed: &packed, rows: WIDTH, cols: WIDTH };
    let (start, mut best) = (Instant::now(), Duration::MAX);
    while start.elapsed() < BUDGET {
        let run = Instant::now();
        std::hint::black_box(ops.linear_forward(&x, weight, None));
        best = best.min(run.elapsed());
    }
    2.0 * (N_TOKENS * WIDTH * WIDTH) as f64 / best.as_secs_f64() / 1e9
}

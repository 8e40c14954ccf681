//! GFLOP/s of linear layers, forward and backward, at the shapes of MiniLM (width 384) and MPNet (width 768).
//! Threads: `RAYON_NUM_THREADS`.

mod timing;

use embertune_kernels::Ops;
use embertune_kernels::cpu::Cpu;
use embertune_kernels::ops::{LinearGrads, Weight};
use embertune_kernels::testing::seeded;
use timing::report;

fn main() {
    println!("{} threads", rayon::current_num_threads());
    for (precision, ops) in [("f32", Some(Cpu::new())), ("bf16", Cpu::bf16())] {
        if let Some(ops) = ops {
            println!("{precision}");
            bench_shapes(&ops);
        }
    }
}

fn bench_shapes(ops: &Cpu) {
    for (n, hidden) in [(4000, 384), (500, 384), (2000, 768)] {
        for (rows, cols) in [(hidden, hidden), (3 * hidden, hidden), (4 * hidden, hidden), (hidden, 4 * hidden)] {
            bench(ops, n, rows, cols);
        }
    }
}

fn bench(ops: &Cpu, n: usize, rows: usize, cols: usize) {
    let upload = |len, seed| ops.upload(&seeded(len, seed));
    let (x, master, bias, d_y) = (upload(n * cols, 1), upload(rows * cols, 2), upload(rows, 3), upload(n * rows, 4));
    let (mut d_weight, mut d_bias) = (ops.zeros(rows * cols), ops.zeros(rows));
    let packed = ops.pack(&master, rows, cols);
    let w = Weight { master: &master, packed: &packed, rows, cols };
    let flops = 2.0 * (n * rows * cols) as f64;
    let shape = format!("n {n}, {cols} -> {rows}");
    report(&format!("linear_forward, {shape}"), "GFLOP/s", flops, || {
        ops.linear_forward(&x, w, Some(&bias));
    });
    report(&format!("linear_backward, frozen, {shape}"), "GFLOP/s", flops, || {
        ops.linear_backward(&d_y, &x, w, None);
    });
    report(&format!("linear_backward, {shape}"), "GFLOP/s", 2.0 * flops, || {
        let grads = LinearGrads { d_weight: &mut d_weight, d_bias: Some(&mut d_bias) };
        ops.linear_backward(&d_y, &x, w, Some(grads));
    });
}

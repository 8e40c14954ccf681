//! GB/s of the passes over memory, bytes read and written, for every instruction set of this machine.
//! Threads: `RAYON_NUM_THREADS`.

mod timing;

use embertune_kernels::Ops;
use embertune_kernels::cpu::{Cpu, Isa};
use embertune_kernels::dropout::Dropout;
use embertune_kernels::ops::{Activation, AdamWStep, Lookup, Norm};
use embertune_kernels::testing::{Texts, seeded};
use timing::report;

/// Tokens of a batch.
const N: usize = 4000;

fn main() {
    println!("{} threads", rayon::current_num_threads());
    for ops in Isa::ALL.into_iter().filter_map(Cpu::with_isa) {
        activations(&ops);
        layer_norm(&ops);
        embedding(&ops);
        optimizer(&ops);
    }
}

fn line(ops: &Cpu, what: &str, n_floats: usize, work: impl FnMut()) {
    report(&format!("{what}, {}", ops.isa()), "GB/s", (4 * n_floats) as f64, work);
}

fn upload(ops: &Cpu, len: usize, seed: u64) -> embertune_kernels::cpu::Buffer {
    ops.upload(&seeded(len, seed))
}

fn activations(ops: &Cpu) {
    let len = N * 1536;
    let (x, d_y) = (upload(ops, len, 1), upload(ops, len, 2));
    for act in [Activation::GeluErf, Activation::GeluTanh, Activation::Relu] {
        line(ops, &format!("activation_forward {act:?}"), 2 * len, || {
            ops.activation_forward(&x, act);
        });
        line(ops, &format!("activation_backward {act:?}"), 3 * len, || {
            ops.activation_backward(&d_y, &x, act);
        });
    }
}

fn layer_norm(ops: &Cpu) {
    let (width, len) = (384, N * 384);
    let texts = Texts::new(&[40; N / 40], 1);
    let texts = texts.ragged();
    let (x, residual, d_y) = (upload(ops, len, 1), upload(ops, len, 2), upload(ops, len, 3));
    let (gamma, beta) = (upload(ops, width, 4), upload(ops, width, 5));
    let (mut d_gamma, mut d_beta) = (ops.zeros(width), ops.zeros(width));
    let norm = Norm { gamma: &gamma, beta: &beta, eps: 1e-12 };
    for (what, dropout) in [("", None), (" with dropout", Some(Dropout { p: 0.1, site: 1 }))] {
        line(ops, &format!("layer_norm_forward{what}"), 4 * len, || {
            ops.layer_norm_forward(&x, Some(&residual), texts, dropout, norm);
        });
    }
    let (_, saved) = ops.layer_norm_forward(&x, Some(&residual), texts, None, norm);
    line(ops, "layer_norm_backward", 3 * len, || {
        ops.layer_norm_backward(&d_y, &saved, norm, &mut d_gamma, &mut d_beta);
    });
    line(ops, "dropout_backward", 2 * len, || {
        ops.dropout_backward(&d_y, texts, Dropout { p: 0.1, site: 1 }, width);
    });
}

fn embedding(ops: &Cpu) {
    let (width, vocab) = (384, 30_522);
    let table = upload(ops, vocab * width, 1);
    let mut d_table = ops.zeros(vocab * width);
    let ids: Vec<u32> = (0..N).map(|t| (t * 7919 % vocab) as u32).collect();
    let types = vec![0; N];
    let lookups = [Lookup { table: &table, rows: &ids }, Lookup { table: &table, rows: &types }];
    let d_y = upload(ops, N * width, 2);
    line(ops, "embedding_forward, 2 tables", 3 * N * width, || {
        ops.embedding_forward(&lookups, width);
    });
    line(ops, "embedding_backward, words", 3 * N * width, || {
        ops.embedding_backward(&d_y, &ids, Some(0), width, &mut d_table);
    });
    line(ops, "embedding_backward, one row", 3 * N * width, || {
        ops.embedding_backward(&d_y, &types, None, width, &mut d_table);
    });
}

fn optimizer(ops: &Cpu) {
    let len = 11_000_000;
    let (mut w, g, mut m, mut v) = (upload(ops, len, 1), upload(ops, len, 2), ops.zeros(len), ops.zeros(len));
    let step = AdamWStep {
        lr: 2e-5,
        beta1: 0.9,
        beta2: 0.999,
        eps: 1e-8,
        weight_decay: 0.01,
        bias_correction1: 0.1,
        bias_correction2: 0.001,
        grad_scale: 1.0,
    };
    line(ops, "adamw_step", 7 * len, || ops.adamw_step(&mut w, &g, &mut m, &mut v, step));
    line(ops, "squared_norm", len, || {
        std::hint::black_box(ops.squared_norm(&g));
    });
}

//! GFLOP/s of attention at lengths from 8 to 512, with MiniLM's heads (12 of 32) and MPNet's (12 of 64).
//! Threads: `RAYON_NUM_THREADS`.

mod timing;

use embertune_kernels::Ops;
use embertune_kernels::cpu::Cpu;
use embertune_kernels::dropout::Dropout;
use embertune_kernels::ops::{Heads, RelativeBias};
use embertune_kernels::testing::{Texts, seeded};
use timing::report;

/// Tokens of a batch, whatever the length of its texts.
const N_TOKENS: usize = 4096;

fn main() {
    let ops = Cpu::new();
    println!("{} threads", rayon::current_num_threads());
    let dropout = Some(Dropout { p: 0.1, site: 1 });
    for head_dim in [32, 64] {
        for len in [8, 16, 24, 64, 128, 256, 512] {
            bench(&ops, len, Heads { heads: 12, head_dim }, None, "");
            bench(&ops, len, Heads { heads: 12, head_dim }, dropout, ", dropout");
        }
    }
}

fn bench(ops: &Cpu, len: usize, heads: Heads, dropout: Option<Dropout>, what: &str) {
    let (texts, width) = (Texts::new(&vec![len; N_TOKENS / len], 1), heads.width());
    let upload = |len, seed| ops.upload(&seeded(len, seed));
    let (n, texts) = (texts.n_tokens(), texts.ragged());
    let (qkv, d_context) = (upload(n * 3 * width, 1), upload(n * width, 2));
    // MPNet has a bias, MiniLM has none.
    let (table, bucket_of) = (upload(32 * heads.heads, 3), vec![5; 1023]);
    let bias = (heads.head_dim == 64).then_some(RelativeBias { table: &table, bucket_of: &bucket_of, max_len: 512 });
    let mut d_table = ops.zeros(table.len());
    let flops = (4 * n * len * width) as f64;
    let shape = format!("len {len}, head_dim {}{what}", heads.head_dim);
    report(&format!("attention_forward, {shape}"), "GFLOP/s", flops, || {
        ops.attention_forward(&qkv, texts, heads, bias, dropout);
    });
    let saved = ops.attention_forward(&qkv, texts, heads, bias, dropout);
    report(&format!("attention_backward, {shape}"), "GFLOP/s", 2.5 * flops, || {
        let d_table = bias.map(|_| &mut d_table);
        ops.attention_backward(&d_context, &qkv, &saved, texts, heads, bias, d_table, dropout);
    });
}

//! Speed of the first pass of a search on bytes, of its parts, and of the f32 product that it replaces, on one thread: 252 queries, a pool
//! of 16,384. Products of bytes are counted as two operations each, as those of f32 are.

mod timing;

use embertune_kernels::cpu::matmul::matmul_nt;
use embertune_kernels::cpu::scan::{Candidates, Centre, MultiplyBytes, Queries, dots, survivors};
use embertune_kernels::testing::seeded;
use timing::report;

fn main() {
    let threads = rayon::ThreadPoolBuilder::new().num_threads(1).build().expect("a thread");
    for dim in [384, 768] {
        threads.install(|| bench(252, 16_384, dim));
    }
}

fn bench(n_queries: usize, n_pool: usize, dim: usize) {
    let (q, p) = (seeded(n_queries * dim, 1), seeded(n_pool * dim, 2));
    let flops = 2.0 * (n_queries * n_pool * dim) as f64;
    let mut out = vec![0.0; n_queries * n_pool];
    report(&format!("f32 product, width {dim}"), "GFLOP/s", flops, || {
        matmul_nt(&mut out, &q, &p, n_queries, n_pool, dim);
    });
    let centre = Centre::of(&p, dim, 32);
    let mut candidates = Candidates::new(&p, &centre, 1);
    report(&format!("coding the pool, width {dim}"), "GB/s", 4.0 * p.len() as f64, || {
        candidates = Candidates::new(&p, &centre, 1);
    });
    let queries = Queries::new(q.chunks_exact(dim), &centre);
    let floors = vec![f32::MAX; n_queries];
    for how in [MultiplyBytes::native()].into_iter().flatten() {
        report(&format!("products of bytes, width {dim}"), "Gop/s", flops, || {
            survivors(how, &queries, &floors, &candidates, |_, _, _| ());
        });
    }
    // Rows far apart, as survivors are.
    let rows: Vec<u32> = (0..500).map(|i| i * 7919 % n_pool as u32).collect();
    let mut scores = vec![0.0; rows.len()];
    report(&format!("dots of rows, width {dim}"), "GB/s", (4 * rows.len() * dim) as f64, || {
        dots(&q[..dim], &p, &rows, &mut scores);
    });
}

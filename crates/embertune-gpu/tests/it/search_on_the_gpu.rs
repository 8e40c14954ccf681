//! Search on a GPU: groups against their specification, and hits against those of the CPU, bit for bit.

use embertune::embed::Vectors;
use embertune::progress::Silent;
use embertune::search::exact::{FirstPass, top_k_by};
use embertune_kernels::search::{SearchDevice, groups_of};
use embertune_kernels::testing::{assert_close, seeded};

use crate::device::{Device, device};
use crate::golden;

/// Relative to the norms, of products in f32.
const TOLERANCE: f64 = 1e-5;

#[test]
fn best_of_groups_agree_on_the_gpu() {
    let Some(gpu) = device() else { return };
    // The last in more than one go: 16 million scores are one.
    for (n_queries, n, dim, n_groups) in
        [(1, 1, 1, 1), (3, 7, 5, 2), (2, 7, 5, 7), (33, 1000, 64, 999), (20, 5000, 384, 1024), (300, 60_000, 8, 1600)]
    {
        let what = format!("{n_queries} queries, {n} candidates of {dim}, {n_groups} groups");
        let (queries, candidates) = (seeded(n_queries * dim, 1), seeded(n * dim, 2));
        let mut n_seen = 0;
        gpu.best_of_groups(&queries, &candidates, dim, n_groups, &mut |first, groups| {
            assert_eq!(first, n_seen, "{what}");
            for groups in groups.chunks(n_groups) {
                let score = |candidate: &[f32]| {
                    let query = &queries[n_seen * dim..][..dim];
                    query.iter().zip(candidate).map(|(q, p)| f64::from(*q) * f64::from(*p)).sum::<f64>() as f32
                };
                let scores: Vec<f32> = candidates.chunks(dim).map(score).collect();
                let expected = groups_of(&scores, n_groups);
                for (group, (found, expected)) in groups.iter().zip(expected).enumerate() {
                    assert_eq!(found.row as usize % n_groups, group, "{what}");
                    let found = [found.best, scores[found.row as usize], found.second];
                    let expected = [expected.best, expected.best, expected.second];
                    assert_close(&found, &expected.map(f64::from), TOLERANCE * dim as f64, 0.0);
                }
                n_seen += 1;
            }
        });
        assert_eq!(n_seen, n_queries, "{what}");
    }
}

fn check(gpu: &Device, what: &str, queries: &Vectors, pool: &Vectors, ks: &[usize]) {
    for &k in ks {
        let [found, expected] = [FirstPass::Device(gpu), FirstPass::Products].map(|first_pass| {
            let hits = top_k_by(first_pass, queries, pool, k, &Silent).into_iter();
            hits.map(|hits| hits.iter().map(|hit| (hit.row, hit.score.to_bits())).collect()).collect::<Vec<Vec<_>>>()
        });
        assert!(found.iter().any(|hits| !hits.is_empty()));
        for (query, (found, expected)) in found.iter().zip(expected).enumerate() {
            assert_eq!(*found, expected, "{what}, k {k}, query {query}");
        }
    }
}

/// `n` vectors, the elements of each made by `element(row, number in -1..1)`.
fn made(n: usize, dim: usize, seed: u64, element: impl Fn(usize, f32) -> f32) -> Vectors {
    Vectors::new(seeded(n * dim, seed).into_iter().enumerate().map(|(i, x)| element(i / dim, x)).collect(), dim)
}

#[test]
fn hits_on_the_gpu_are_those_of_the_cpu_bit_for_bit() {
    let Some(gpu) = device() else { return };
    let both = |dim, element: &dyn Fn(usize, f32) -> f32| (made(20, dim, 1, element), made(3000, dim, 2, element));
    let ks = [1, 30, 300];
    for dim in [1, 7, 384] {
        let (queries, pool) = both(dim, &|_, x| x);
        check(gpu, "plain", &queries, &pool, &ks);
    }
    let (queries, pool) = both(9, &|_, x| (3.0 * x).round());
    check(gpu, "ties", &queries, &pool, &ks);
    check(gpu, "all of the pool", &queries, &pool, &[3000, 3010]);
    check(gpu, "equal", &queries, &made(3000, 9, 2, |_, _| 0.3), &ks);
    let (queries, pool) = both(16, &|row, x| x * [1.0, 1e19, 1e-19, 0.0, 1e-30, 1e30][row % 6]);
    check(gpu, "extreme", &queries, &pool, &ks);
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let (queries, pool) = both(16, &|row, x| if row % 7 == 3 && x > 0.9 { bad } else { x });
        check(gpu, "bad", &queries, &pool, &ks);
    }
    // Several goes of queries, and several blocks of candidates.
    check(gpu, "queries", &made(300, 8, 1, |_, x| x), &made(60_000, 8, 2, |_, x| x), &[201]);
    check(gpu, "candidates", &made(3, 1 << 15, 1, |_, x| x), &made(520, 1 << 15, 2, |_, x| x), &[100]);
}

#[test]
fn hits_in_the_golden_cranfield_vectors_on_the_gpu_are_those_of_the_cpu() {
    let (Some(gpu), Some(tensors)) = (device(), golden::tensors("mining.safetensors")) else { return };
    let [queries, corpus] = ["cranfield/queries", "cranfield/corpus"].map(|name| {
        let (shape, values) = &tensors[name];
        Vectors::new(values.clone(), shape[1])
    });
    check(gpu, "cranfield", &queries, &corpus, &[10, 50, 201]);
}

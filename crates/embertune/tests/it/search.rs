//! Exact search against brute force, and on the golden vectors.

use std::collections::BTreeMap;

use embertune::embed::Vectors;
use embertune::progress::Silent;
use embertune::search::{Hit, top_k};
use embertune_kernels::dropout::splitmix64;

use crate::golden::{self, Tensor};
use crate::said::Said;

/// Between correct float32 programs scores differ by 8e-7; the golden README allows 2e-6, and another order only among
/// neighbours closer than that.
pub const SCORE: f32 = 2e-6;

/// Vectors of small integers: their dot products are exact in f32, so equal scores are common and every order is decided.
fn integers(n_rows: usize, dim: usize, seed: u64) -> Vectors {
    let values = (0..n_rows * dim).map(|i| (splitmix64(seed ^ splitmix64(i as u64)) % 5) as f32 - 2.0).collect();
    Vectors::new(values, dim)
}

fn brute_force(queries: &Vectors, pool: &Vectors, k: usize) -> Vec<Vec<Hit>> {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(x, y)| x * y).sum();
    let of_query = |query: usize| {
        let mut hits: Vec<_> = (0..pool.n_rows())
            .map(|row| Hit { row: row as u32, score: dot(queries.row(query), pool.row(row)) })
            .collect();
        // A stable sort keeps the rows of equal scores in order.
        hits.sort_by(|a, b| b.score.total_cmp(&a.score));
        hits.truncate(k);
        hits
    };
    (0..queries.n_rows()).map(of_query).collect()
}

#[test]
fn search_equals_brute_force_with_ties_in_the_order_of_rows() {
    // Sizes around the block sizes (256 queries, 4096 candidates), and k beyond the pool.
    for (n_queries, n_pool, dim, k) in [
        (1, 1, 1, 1),
        (3, 7, 4, 10),
        (5, 100, 3, 1),
        (257, 300, 5, 8),
        (4, 4096, 6, 50),
        (2, 9000, 7, 9000),
        (3, 8193, 2, 20),
    ] {
        let [queries, pool] = [(n_queries, 1), (n_pool, 2)].map(|(n, seed)| integers(n, dim, seed));
        let found = top_k(&queries, &pool, k, &Silent);
        assert_eq!(found, brute_force(&queries, &pool, k), "{n_queries} queries, {n_pool} candidates, k {k}");
    }
}

#[test]
fn nothing_is_found_in_an_empty_pool_or_for_no_queries() {
    let [some, none] = [3, 0].map(|n| integers(n, 4, 1));
    assert_eq!(top_k(&some, &none, 5, &Silent), vec![vec![]; 3]);
    assert_eq!(top_k(&none, &some, 5, &Silent), [] as [Vec<Hit>; 0]);
    assert_eq!(top_k(&some, &some, 0, &Silent), vec![vec![]; 3]);
}

#[test]
fn a_score_that_is_no_number_ranks_last() {
    let pool = Vectors::new(vec![f32::NAN, 1.0, -1.0, f32::NAN, 2.0], 1);
    let found = top_k(&Vectors::new(vec![1.0], 1), &pool, 4, &Silent);
    assert_eq!(found[0].iter().map(|hit| hit.row).collect::<Vec<_>>(), [4, 1, 2, 0]);
}

#[test]
fn the_number_of_threads_changes_nothing_and_progress_counts_queries() {
    let [queries, pool] = [(300, 3), (5000, 4)].map(|(n, seed)| {
        let values = (0..n * 24).map(|i| splitmix64(seed ^ splitmix64(i)) as f32 / u64::MAX as f32 - 0.5).collect();
        Vectors::new(values, 24)
    });
    let with_threads = |n| {
        let threads = rayon::ThreadPoolBuilder::new().num_threads(n).build().unwrap();
        let said = Said::default();
        let found = threads.install(|| top_k(&queries, &pool, 30, &said));
        assert_eq!(said.units(), 300);
        found
    };
    assert_eq!(with_threads(1), with_threads(3));
}

/// Vectors that a golden file holds under `name`.
pub fn vectors(tensors: &BTreeMap<String, Tensor>, name: &str) -> Vectors {
    let (shape, values) = &tensors[name];
    Vectors::new(values.clone(), shape[1])
}

#[test]
fn top_50_of_the_golden_cranfield_vectors() {
    let Some(tensors) = golden::tensors("mining.safetensors") else { return };
    let [queries, corpus] = ["cranfield/queries", "cranfield/corpus"].map(|name| vectors(&tensors, name));
    let [scores, index] = ["cranfield/top50/scores", "cranfield/top50/index"].map(|name| vectors(&tensors, name));
    for (query, hits) in top_k(&queries, &corpus, 50, &Silent).iter().enumerate() {
        for (rank, hit) in hits.iter().enumerate() {
            let expected = scores.row(query)[rank];
            assert!((hit.score - expected).abs() <= SCORE, "query {query}, rank {rank}: {} not {expected}", hit.score);
            // Scores agree rank by rank; so where rows differ, they are neighbours closer than the tolerance.
            let place = index.row(query).iter().position(|&row| row as u32 == hit.row);
            let own = place.map_or(expected, |place| scores.row(query)[place]);
            assert!((own - hit.score).abs() <= SCORE, "query {query}, rank {rank}: row {}", hit.row);
            if index.row(query)[rank] as u32 != hit.row && place.is_none() {
                assert!(
                    hit.score - scores.row(query)[49] <= SCORE,
                    "query {query}: row {} is not in the top 50",
                    hit.row
                );
            }
        }
    }
}

//! Exact search against brute force, and on the golden vectors.

use std::collections::BTreeMap;

use embertune::embed::Vectors;
use embertune::progress::Silent;
use embertune::search::exact::{FirstPass, RunningTopK, top_k_by};
use embertune::search::{Hit, top_k};
use embertune_kernels::cpu::scan::{MultiplyBytes, dots};
use embertune_kernels::dropout::splitmix64;
use embertune_kernels::search::{GroupBest, SearchDevice, groups_of};
use embertune_kernels::testing::seeded;

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
    let rows: Vec<u32> = (0..pool.n_rows() as u32).collect();
    let of_query = |query: usize| {
        let mut scores = vec![0.0; rows.len()];
        dots(queries.row(query), &pool.values, &rows, &mut scores);
        let lowest = |score: f32| if score.is_nan() { f32::NEG_INFINITY } else { score };
        let mut hits: Vec<_> = rows.iter().zip(scores).map(|(&row, s)| Hit { row, score: lowest(s) }).collect();
        // A stable sort keeps the rows of equal scores in order.
        hits.sort_by(|a, b| b.score.partial_cmp(&a.score).unwrap());
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

/// A device whose scores are all as wrong as scores of a device may be, to either side; seven queries at a time.
#[derive(Debug)]
struct Imprecise;

impl SearchDevice for Imprecise {
    fn best_of_groups(
        &self,
        queries: &[f32],
        candidates: &[f32],
        dim: usize,
        n_groups: usize,
        found: &mut dyn FnMut(usize, &[GroupBest]),
    ) {
        for (i, seven) in queries.chunks(7 * dim).enumerate() {
            let of_query = |(j, query): (usize, &[f32])| {
                let score = |(row, candidate): (usize, &[f32])| {
                    let terms = || query.iter().zip(candidate).map(|(q, p)| f64::from(*q) * f64::from(*p));
                    let error = terms().map(f64::abs).sum::<f64>() * dim as f64 * f64::from(f32::EPSILON);
                    let sign = [-1.0, 1.0][(splitmix64((j * 1_000_003 + row) as u64) % 2) as usize];
                    (terms().sum::<f64>() + sign * error) as f32
                };
                groups_of(&candidates.chunks(dim).enumerate().map(score).collect::<Vec<_>>(), n_groups)
            };
            let groups: Vec<_> = seven.chunks(dim).enumerate().flat_map(of_query).collect();
            found(7 * i, &groups);
        }
    }
}

/// Every first pass that this machine has.
fn first_passes() -> Vec<FirstPass<'static>> {
    let native = MultiplyBytes::native().map(FirstPass::Bytes);
    let emulated = FirstPass::Bytes(MultiplyBytes::emulated());
    [Some(FirstPass::Products), native, Some(emulated), Some(FirstPass::Device(&Imprecise))]
        .into_iter()
        .flatten()
        .collect()
}

/// Bit for bit what brute force finds, by every first pass.
fn check(what: &str, queries: &Vectors, pool: &Vectors, ks: &[usize]) {
    for &k in ks {
        let expected = brute_force(queries, pool, k);
        for first_pass in first_passes() {
            let found = top_k_by(first_pass, queries, pool, k, &Silent);
            assert_eq!(found.len(), expected.len());
            for (query, (found, expected)) in found.iter().zip(&expected).enumerate() {
                let rows = |hits: &[Hit]| hits.iter().map(|hit| (hit.row, hit.score)).collect::<Vec<_>>();
                assert_eq!(rows(found), rows(expected), "{what}, {first_pass:?}, k {k}, query {query}");
            }
        }
    }
}

/// `n` vectors, the elements of each made by `element(row, number in -1..1)`.
fn made(n: usize, dim: usize, seed: u64, element: impl Fn(usize, f32) -> f32) -> Vectors {
    Vectors::new(seeded(n * dim, seed).into_iter().enumerate().map(|(i, x)| element(i / dim, x)).collect(), dim)
}

/// Enough for a first pass by bytes.
const QUERIES: usize = 50;
const POOL: usize = 4500;

#[test]
fn every_first_pass_finds_exactly_what_brute_force_finds() {
    for dim in [1, 7, 64, 384, 768] {
        let [queries, pool] = [(QUERIES, 1), (POOL, 2)].map(|(n, seed)| made(n, dim, seed, |_, x| x));
        check("plain", &queries, &pool, &[0, 1, 20, 281, 300]);
    }
    let [queries, pool] = [(QUERIES, 1), (POOL, 2)].map(|(n, seed)| made(n, 24, seed, |_, x| x));
    check("all of the pool", &queries, &pool, &[POOL, POOL + 7]);
}

/// 512 candidates of this width are what a device takes at once.
#[test]
fn a_pool_in_blocks_of_a_device_gives_what_it_gives_as_a_whole() {
    let dim = 1 << 15;
    check("two blocks", &integers(9, dim, 1), &integers(520, dim, 2), &[3, 515]);
}

#[test]
fn a_pool_in_parts_gives_what_it_gives_as_a_whole() {
    let queries = made(QUERIES, 8, 1, |_, x| x);
    // The second half is nearer to all queries, so that the floors of the first are low for it.
    let nearer = made(2 * POOL + 20, 8, 2, |row, x| if row > POOL { 2.0 * x } else { x });
    for (pool, ks) in [(nearer, [0, 30, 5000].as_slice()), (integers(2 * POOL, 8, 3), &[30])] {
        for &k in ks {
            let expected = brute_force(&queries, &pool, k);
            for first_pass in first_passes() {
                // Parts that are large enough for bytes, that are not, that are empty, and that hold fewer than k.
                let mut best = RunningTopK::new(first_pass, &queries, k);
                let mut rest = &pool.values[..];
                for n_rows in [10, POOL, 0, 1, usize::MAX] {
                    let (part, after) = rest.split_at(rest.len().min(n_rows.saturating_mul(8)));
                    best.add(part, &Silent);
                    rest = after;
                }
                assert_eq!(best.into_hits(), expected, "{first_pass:?}, k {k}");
            }
        }
    }
}

#[test]
fn norms_of_all_sizes_and_vectors_that_lean_the_same_way_change_nothing() {
    let scales = |row: usize, x: f32| x * 10_f32.powi(row as i32 % 9 - 4);
    check("norms", &made(QUERIES, 40, 3, scales), &made(POOL, 40, 4, scales), &[1, 33]);
    let lean = |row: usize, x: f32| 5.0 + x * 0.01 * (row % 3) as f32;
    check("lean", &made(QUERIES, 40, 5, lean), &made(POOL, 40, 6, lean), &[10]);
    let extreme = |row: usize, x: f32| x * [1.0, 1e19, 1e-19, 0.0, 1e-30][row % 5];
    check("extreme", &made(QUERIES, 40, 7, extreme), &made(POOL, 40, 8, extreme), &[10]);
}

#[test]
fn equal_vectors_zeros_and_ties_keep_the_order_of_rows() {
    let queries = made(QUERIES, 9, 1, |_, x| x);
    check("equal", &queries, &made(POOL, 9, 2, |_, _| 0.3), &[5]);
    check("zeros", &queries, &made(POOL, 9, 2, |_, _| 0.0), &[5]);
    check("zero queries", &made(QUERIES, 9, 2, |_, _| 0.0), &made(POOL, 9, 3, |_, x| x), &[5]);
    check("ties", &integers(QUERIES, 9, 1), &integers(POOL, 9, 2), &[1, 50]);
    // Sorted by topic: the best of a query lie side by side.
    let topics = |row: usize, x: f32| x + if row * 9 % 400 < 30 { row as f32 / 500.0 } else { 0.0 };
    check("topics", &queries, &made(POOL, 9, 4, topics), &[5, 100]);
}

#[test]
fn values_that_are_no_numbers_change_nothing_for_others() {
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let some = |row: usize, x: f32| if row % 7 == 3 && x > 0.9 { bad } else { x };
        check("bad", &made(QUERIES, 16, 1, some), &made(POOL, 16, 2, some), &[3, 100]);
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
    let [queries, pool] = [(300, 3), (5000, 4)].map(|(n, seed)| made(n, 24, seed, |_, x| x));
    for first_pass in first_passes() {
        let with_threads = |n| {
            let threads = rayon::ThreadPoolBuilder::new().num_threads(n).build().unwrap();
            let said = Said::default();
            let found = threads.install(|| top_k_by(first_pass, &queries, &pool, 30, &said));
            assert_eq!(said.units(), 300);
            found
        };
        let one = with_threads(1);
        assert!([2, 4].into_iter().all(|n| with_threads(n) == one), "{first_pass:?}");
    }
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

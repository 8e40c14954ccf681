//! A first look at the dot products of many vectors: from one byte per element, with an error that cannot be exceeded.
//!
//! A vector `x` becomes `s c`: a scale and codes in `-127..=127`. With a *centre* `m` taken off both sides,
//! `q . p = (q - m) . (p - m) + m . p + (q - m) . m`, and only the first product is made from codes. By Cauchy-Schwarz it is off
//! by at most `|q - m - q'| |p - m| + |q'| |p - m - p'|`, where `q'` and `p'` are what the codes stand for. The norms are those of the actual
//! residuals; to them comes what f32 sums can lose. So a candidate whose score plus error is below the k-th best exact score is none
//! of the best k, and only the others need [`dots`]. The centre matters where all vectors lean the same way, as those of many models do.
//!
//! The candidates lie in panels of [`PANEL`] as `u8` (code + 128), queries in rows as `i8`, as `VPDPBUSD` takes them ([`tile`]).

mod codes;
mod tile;

use std::ops::Range;

use crate::cpu::isa::{Detected, per_isa};
use crate::cpu::rows;

pub use codes::{Candidates, Centre, MAX_DIM, Queries, bounded_norms};
pub use tile::MultiplyBytes;
use tile::{PANEL, Seen, TILE, Tile};

/// The scores of all `candidates` for all `queries`, `[n_queries, n_candidates]`, as far as codes tell.
///
/// # Panics
/// Where the dims differ, or `out` has another size.
pub fn scores(how: MultiplyBytes, out: &mut [f32], queries: &Queries, candidates: &Candidates) {
    let n = candidates.n_rows();
    assert_eq!(out.len(), queries.n_rows() * n, "scores of {} queries and {n} candidates", queries.n_rows());
    let floors = vec![f32::NEG_INFINITY; queries.n_rows()];
    for_each_tile(how, queries, &floors, candidates, |query, rows, scores, _| {
        let offset = queries.terms()[query].offset;
        for (out, score) in out[query * n..][rows].iter_mut().zip(scores) {
            *out = score + offset;
        }
    });
}

/// Calls `found(query, candidate, score)` for every candidate whose score plus error is not below the query's floor, or is no number;
/// each query's candidates in ascending order.
///
/// # Panics
/// Where the dims differ, or there is not one floor per query.
pub fn survivors(
    how: MultiplyBytes,
    queries: &Queries,
    floors: &[f32],
    candidates: &Candidates,
    mut found: impl FnMut(usize, u32, f32),
) {
    assert_eq!(floors.len(), queries.n_rows(), "floors of queries");
    let floors: Vec<_> = floors.iter().zip(queries.terms()).map(|(floor, terms)| floor - terms.offset).collect();
    for_each_tile(how, queries, &floors, candidates, |query, rows, scores, mut survived| {
        let offset = queries.terms()[query].offset;
        while survived != 0 {
            let lane = survived.trailing_zeros() as usize;
            found(query, (rows.start + lane) as u32, scores[lane] + offset);
            survived &= survived - 1;
        }
    });
}

/// Calls `seen(query, candidates, their scores without the query's offset, which of them survived)`.
fn for_each_tile(
    how: MultiplyBytes,
    queries: &Queries,
    floors: &[f32],
    candidates: &Candidates,
    mut seen: impl FnMut(usize, Range<usize>, &[f32], u32),
) {
    assert_eq!(queries.dim(), candidates.dim(), "dim of queries and candidates");
    let n = candidates.n_rows();
    let mut tile_seen = Seen::default();
    // A panel stays in the first-level cache while all queries of the block, which the second level holds, pass by.
    for panel in 0..n.div_ceil(PANEL) {
        let rows = panel * PANEL..n.min((panel + 1) * PANEL);
        let real = u32::MAX >> (PANEL - rows.len());
        for first in (0..queries.n_rows()).step_by(TILE) {
            let block = first..queries.n_rows().min(first + TILE);
            let tile = Tile {
                codes: queries.codes(block.clone()),
                queries: &queries.terms()[block.clone()],
                floors: &floors[block.clone()],
                panel: candidates.panel(panel),
                candidates: candidates.terms(panel),
            };
            how.tile(&tile, &mut tile_seen);
            for (i, query) in block.enumerate() {
                let survived = tile_seen.survived[i] & real;
                if survived != 0 {
                    seen(query, rows.clone(), &tile_seen.scores[i][..rows.len()], survived);
                }
            }
        }
    }
}

/// The dot products of `query` with some rows of `candidates`, `[n, dim]`, in f32: each is the same whatever the others are.
///
/// # Panics
/// Where a row is out of bounds.
pub fn dots(query: &[f32], candidates: &[f32], rows: &[u32], out: &mut [f32]) {
    assert_eq!(rows.len(), out.len(), "dot products of rows");
    dots_of_rows(Detected::widest(), query, candidates, rows, out);
}

/// How many rows are fetched ahead: rows lie anywhere in memory, and fetching one takes longer than a product.
const AHEAD: usize = 4;

/// Tells the CPU that `row` will be read.
#[inline(always)]
fn prefetch(row: &[f32]) {
    #[cfg(target_arch = "x86_64")]
    for line in row.chunks(16) {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a prefetch reads nothing and cannot fault; the pointer is that of a slice.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(line.as_ptr().cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = row;
}

per_isa! {
    fn dots_of_rows<const FMA: bool>(query: &[f32], candidates: &[f32], rows: &[u32], out: &mut [f32]) {
        let candidate = |row: u32| &candidates[row as usize * query.len()..][..query.len()];
        for (i, (out, &row)) in out.iter_mut().zip(rows).enumerate() {
            if let Some(&ahead) = rows.get(i + AHEAD) {
                prefetch(candidate(ahead));
            }
            *out = rows::dot::<FMA>(query, candidate(row));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::Isa;
    use crate::testing::{assert_close, seeded};

    /// Scores of the two ways differ by the rounding of their terms alone: a fused operation, or two.
    const ROUNDING: f32 = 1e-6;

    /// Every way to multiply that this machine has.
    fn ways() -> Vec<MultiplyBytes> {
        [MultiplyBytes::native(), Some(MultiplyBytes::emulated())].into_iter().flatten().collect()
    }

    fn exact(a: &[f32], b: &[f32]) -> f64 {
        a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
    }

    /// `n` vectors of some `kind`: plain ones; long ones with an element that dwarfs the others; ones that all lean the same way.
    fn vectors(kind: usize, n: usize, dim: usize, seed: u64) -> Vec<f32> {
        let mut x = seeded(n * dim, seed);
        for (i, x) in x.iter_mut().enumerate() {
            match kind {
                1 if i % dim == 3 => *x *= 1e6,
                1 => *x *= 1e3,
                2 => *x = 0.01 * *x + (i % dim % 3) as f32,
                _ => {}
            }
        }
        x
    }

    #[test]
    fn no_score_is_off_by_more_than_its_error() {
        for kind in 0..3 {
            for dim in [1, 3, 4, 5, 31, 33, 384, 385] {
                for (m, n) in [(1, 1), (11, 31), (12, 32), (13, 33), (25, 65)] {
                    let (q, p) = (vectors(kind, m, dim, 1), vectors(kind, n, dim, 2));
                    let centre = Centre::of(&p, dim, 2);
                    let (queries, candidates) =
                        (Queries::new(q.chunks_exact(dim), &centre), Candidates::new(&p, &centre, 1));
                    let all = ways().into_iter().map(|how| {
                        let mut out = vec![f32::NAN; m * n];
                        scores(how, &mut out, &queries, &candidates);
                        out
                    });
                    for (all, how) in all.zip(ways()) {
                        for (i, q) in q.chunks_exact(dim).enumerate() {
                            let mut ours = vec![0.0; n];
                            dots(q, &p, &(0..n as u32).collect::<Vec<_>>(), &mut ours);
                            for (j, p) in p.chunks_exact(dim).enumerate() {
                                let (score, error) = (all[i * n + j], candidates.error(&queries, i, j as u32));
                                for truth in [exact(q, p), f64::from(ours[j])] {
                                    let off = (f64::from(score) - truth).abs();
                                    assert!(
                                        off <= f64::from(error),
                                        "kind {kind}, dim {dim}, {how:?}, ({i}, {j}): {score} for {truth}, error {error}"
                                    );
                                }
                                assert!(error.is_finite(), "kind {kind}, dim {dim}: error {error}");
                            }
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn survivors_are_those_that_reach_the_floor_in_order() {
        let dim = 20;
        for (m, n) in [(1, 0), (1, 1), (11, 31), (12, 32), (13, 33), (25, 100)] {
            let (q, p) = (vectors(0, m, dim, 3), vectors(0, n, dim, 4));
            let centre = Centre::of(&p, dim, 1);
            let (queries, candidates) = (Queries::new(q.chunks_exact(dim), &centre), Candidates::new(&p, &centre, 1));
            let floors: Vec<f32> = (0..m).map(|i| i as f32 * 0.2 - 1.0).collect();
            for how in ways() {
                let mut all = vec![0.0; m * n];
                scores(how, &mut all, &queries, &candidates);
                let mut found = vec![Vec::new(); m];
                survivors(how, &queries, &floors, &candidates, |query, row, score| {
                    assert!((score - all[query * n + row as usize]).abs() <= ROUNDING);
                    found[query].push(row);
                });
                for (i, found) in found.iter().enumerate() {
                    assert!(found.is_sorted(), "query {i}: {found:?}");
                    for row in 0..n as u32 {
                        let above = all[i * n + row as usize] + candidates.error(&queries, i, row) - floors[i];
                        assert!(
                            above.abs() <= ROUNDING || found.contains(&row) == (above > 0.0),
                            "{m} x {n}, {how:?}, query {i}, candidate {row}: {above} above the floor"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn native_and_emulated_bytes_give_the_same_scores() {
        let Some(native) = MultiplyBytes::native() else {
            eprintln!("SKIPPED: no AVX-512 VNNI on this machine");
            return;
        };
        for dim in [1, 4, 7, 64, 100] {
            let (q, p) = (vectors(0, 29, dim, 5), vectors(0, 70, dim, 6));
            let centre = Centre::of(&p, dim, 1);
            let (queries, candidates) = (Queries::new(q.chunks_exact(dim), &centre), Candidates::new(&p, &centre, 1));
            let [one, other] = [native, MultiplyBytes::emulated()].map(|how| {
                let mut out = vec![0.0; 29 * 70];
                scores(how, &mut out, &queries, &candidates);
                out
            });
            assert_close(&one, &other, f64::from(ROUNDING), 1e-6);
        }
    }

    #[test]
    fn vectors_that_products_overflow_or_vanish_for_survive_any_floor() {
        let p = [f32::NAN, 1.0, f32::INFINITY, 0.0, 1e20, 0.0, 1e-20, 0.0, 3.0, 4.0, 0.0, 0.0];
        let centre = Centre::of(&p, 2, 1);
        let candidates = Candidates::new(&p, &centre, 1);
        assert_eq!(bounded_norms(&p, 2), [[f32::INFINITY; 4].as_slice(), &[5.0, 0.0]].concat());
        let queries = Queries::new([[0.5, 0.5].as_slice(), &[f32::NAN, 0.0]], &centre);
        for how in ways() {
            let mut found = [vec![], vec![]];
            survivors(how, &queries, &[100.0; 2], &candidates, |query, row, _| found[query].push(row));
            assert_eq!(found, [vec![0, 1, 2, 3], vec![0, 1, 2, 3, 4, 5]], "{how:?}");
        }
    }

    #[test]
    fn dot_products_are_right_on_every_instruction_set_and_independent_of_each_other() {
        for dim in [1, 15, 31, 32, 33, 100, 384] {
            let (q, p) = (seeded(dim, 1), seeded(9 * dim, 2));
            let rows = [8, 0, 3, 3, 7];
            let truth: Vec<f64> = rows.iter().map(|&row| exact(&q, &p[row as usize * dim..][..dim])).collect();
            for isa in Isa::ALL.into_iter().filter_map(Detected::new) {
                let mut all = [0.0; 5];
                dots_of_rows(isa, &q, &p, &rows, &mut all);
                assert_close(&all, &truth, 1e-6 * dim as f64, 0.0);
                for (row, all) in rows.iter().zip(all) {
                    let mut alone = [0.0];
                    dots_of_rows(isa, &q, &p, &[*row], &mut alone);
                    assert_eq!(alone[0].to_bits(), all.to_bits());
                }
            }
        }
    }

    #[test]
    fn every_second_row_is_what_a_step_of_two_codes() {
        let p = seeded(7 * 5, 9);
        let centre = Centre::of(&p, 5, 1);
        let queries = Queries::new(p.chunks_exact(5), &centre);
        let of = |step| {
            let candidates = Candidates::new(&p, &centre, step);
            let mut out = vec![0.0; 7 * candidates.n_rows()];
            scores(MultiplyBytes::emulated(), &mut out, &queries, &candidates);
            out
        };
        let (all, some) = (of(1), of(2));
        let expected: Vec<f32> = all.chunks(7).flat_map(|all| all.iter().step_by(2)).copied().collect();
        assert_eq!(some, expected);
    }
}

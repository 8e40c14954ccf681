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

pub use codes::{Candidates, Centre, Queries, bounded_norms};
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

per_isa! {
    fn dots_of_rows<const FMA: bool>(query: &[f32], candidates: &[f32], rows: &[u32], out: &mut [f32]) {
        for (out, &row) in out.iter_mut().zip(rows) {
            *out = rows::dot::<FMA>(query, &candidates[row as usize * query.len()..][..query.len()]);
        }
    }
}

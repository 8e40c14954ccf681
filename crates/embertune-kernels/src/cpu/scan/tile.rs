//! A tile of scores in registers: [`TILE`] queries by [`PANEL`] candidates, 24 of the 32 AVX-512 registers.

use crate::cpu::scan::codes::{CandidateTerms, FourOfAPanel, QueryTerms};

/// Candidates of a panel: two AVX-512 registers of sums.
pub(super) const PANEL: usize = 32;
/// Queries of a tile. 12 x 32 sums leave registers for two of the panel and for the query's codes, which are broadcast.
pub(super) const TILE: usize = 12;

/// What a tile is made of.
pub(super) struct Tile<'a> {
    /// Four codes each, `[queries][quads]`.
    pub(super) codes: &'a [u32],
    /// `1..=TILE` queries.
    pub(super) queries: &'a [QueryTerms],
    /// One per query, its offset taken off.
    pub(super) floors: &'a [f32],
    /// `[quads]`.
    pub(super) panel: &'a [FourOfAPanel],
    pub(super) candidates: &'a CandidateTerms,
}

/// What comes out of a tile. Rows beyond its queries hold what was there.
#[derive(Default)]
pub(super) struct Seen {
    /// Scores without the query's offset.
    pub(super) scores: [[f32; PANEL]; TILE],
    /// Bit `j`: candidate `j` is not below the query's floor.
    pub(super) survived: [u32; TILE],
}

/// How bytes are multiplied: the proof that this machine can.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MultiplyBytes {
    native: bool,
}

impl MultiplyBytes {
    /// By AVX-512 VNNI, where the machine has it.
    pub fn native() -> Option<Self> {
        #[cfg(target_arch = "x86_64")]
        let present = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512vnni");
        #[cfg(not(target_arch = "x86_64"))]
        let present = false;
        present.then_some(MultiplyBytes { native: true })
    }

    /// In plain integers, on any machine: the same scores up to the rounding of their terms, and slow.
    pub fn emulated() -> Self {
        MultiplyBytes { native: false }
    }

    /// Computes a tile.
    pub(super) fn tile(self, tile: &Tile<'_>, seen: &mut Seen) {
        let n = tile.queries.len();
        assert!((1..=TILE).contains(&n), "a tile of {n} queries");
        assert_eq!(tile.codes.len(), n * tile.panel.len(), "codes of a tile of {n} queries");
        assert_eq!(tile.floors.len(), n, "floors of a tile");
        #[cfg(target_arch = "x86_64")]
        if self.native {
            // SAFETY: `native` is true only where the features were found. `M` is the number of queries, of floors, and of
            // rows of codes by the assertions.
            unsafe {
                match n {
                    12 => x86::tile::<12>(tile, seen),
                    11 => x86::tile::<11>(tile, seen),
                    10 => x86::tile::<10>(tile, seen),
                    9 => x86::tile::<9>(tile, seen),
                    8 => x86::tile::<8>(tile, seen),
                    7 => x86::tile::<7>(tile, seen),
                    6 => x86::tile::<6>(tile, seen),
                    5 => x86::tile::<5>(tile, seen),
                    4 => x86::tile::<4>(tile, seen),
                    3 => x86::tile::<3>(tile, seen),
                    2 => x86::tile::<2>(tile, seen),
                    _ => x86::tile::<1>(tile, seen),
                }
            }
            return;
        }
        emulated_tile(tile, seen);
    }
}

/// The same in plain loops.
fn emulated_tile(tile: &Tile<'_>, seen: &mut Seen) {
    let n_quads = tile.panel.len();
    for (i, query) in tile.queries.iter().enumerate() {
        let mut sums = [query.start; PANEL];
        for (codes, panel) in tile.codes[i * n_quads..][..n_quads].iter().zip(tile.panel) {
            for (sum, candidate) in sums.iter_mut().zip(panel.0) {
                let products = codes.to_le_bytes().into_iter().zip(candidate.to_le_bytes());
                *sum += products.map(|(q, p)| i32::from(q.cast_signed()) * i32::from(p)).sum::<i32>();
            }
        }
        seen.survived[i] = 0;
        let terms = tile.candidates;
        for (j, sum) in sums.into_iter().enumerate() {
            let score = sum as f32 * (query.scale * terms.scale[j]) + terms.offset[j];
            seen.scores[i][j] = score;
            let below = score + query.error(terms, j) < tile.floors[i];
            seen.survived[i] |= u32::from(!below) << j;
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::{Seen, Tile};

    /// # Safety
    /// The machine has AVX-512 F, BW and VNNI. `tile.queries` and `tile.floors` have `M <= TILE` elements, `tile.codes` `M * tile.panel.len()`.
    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    pub(super) unsafe fn tile<const M: usize>(tile: &Tile<'_>, seen: &mut Seen) {
        let n_quads = tile.panel.len();
        let mut sums = [[_mm512_setzero_si512(); 2]; M];
        for (sums, query) in sums.iter_mut().zip(tile.queries) {
            *sums = [_mm512_set1_epi32(query.start); 2];
        }
        let mut codes = tile.codes.as_ptr();
        for four in tile.panel {
            // SAFETY: a `FourOfAPanel` is 32 `u32`, and row `i < M` of the codes has `n_quads` elements, of which `codes` has passed
            // fewer than that.
            unsafe {
                let low = _mm512_load_si512(four.0.as_ptr().cast());
                let high = _mm512_load_si512(four.0.as_ptr().add(16).cast());
                for (i, sums) in sums.iter_mut().enumerate() {
                    let query = _mm512_set1_epi32(codes.add(i * n_quads).read().cast_signed());
                    sums[0] = _mm512_dpbusd_epi32(sums[0], low, query);
                    sums[1] = _mm512_dpbusd_epi32(sums[1], high, query);
                }
            }
            codes = codes.wrapping_add(1);
        }
        for half in 0..2 {
            let terms = tile.candidates;
            let part = |all: &[f32; super::PANEL]| {
                // SAFETY: elements 0..16 or 16..32 of 32.
                unsafe { _mm512_loadu_ps(all.as_ptr().add(16 * half)) }
            };
            let (scale, offset) = (part(&terms.scale), part(&terms.offset));
            let (norm, residual, slack) = (part(&terms.norm), part(&terms.residual), part(&terms.slack));
            for (i, sums) in sums.iter().enumerate() {
                let query = &tile.queries[i];
                let scale = _mm512_mul_ps(scale, _mm512_set1_ps(query.scale));
                let score = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sums[half]), scale, offset);
                let highest = _mm512_fmadd_ps(norm, _mm512_set1_ps(query.residual), score);
                let highest = _mm512_fmadd_ps(residual, _mm512_set1_ps(query.norm), highest);
                let highest = _mm512_fmadd_ps(slack, _mm512_set1_ps(query.slack), highest);
                // "Not less than", true where one is no number.
                let survived = _mm512_cmp_ps_mask::<_CMP_NLT_UQ>(highest, _mm512_set1_ps(tile.floors[i]));
                let before = if half == 0 { 0 } else { seen.survived[i] };
                seen.survived[i] = before | u32::from(survived) << (16 * half);
                // SAFETY: elements 0..16 or 16..32 of 32.
                unsafe { _mm512_storeu_ps(seen.scores[i].as_mut_ptr().add(16 * half), score) };
            }
        }
    }
}

//! Vectors as one byte per element: codes, scales, and what bounds the error of products made from them.

use rayon::prelude::*;

use crate::cpu::isa::{Detected, per_isa};
use crate::cpu::rows;
use crate::cpu::scan::tile::PANEL;

/// Vectors whose norms are between these, or that are zero, have products and sums that neither overflow nor vanish. Others get an
/// infinite error.
const NORMS: std::ops::RangeInclusive<f32> = 1e-15..=1e15;

/// The norms of the rows of `x`, `[n, dim]`: what the rounding errors of their products are proportional to. Infinite where a row has
/// no norm, or one so extreme that products may overflow or vanish.
pub fn bounded_norms(x: &[f32], dim: usize) -> Vec<f32> {
    let isa = Detected::widest();
    let bounded = |row: &[f32]| {
        let norm = norm(isa, row);
        if is_bounded(norm, row) { norm } else { f32::INFINITY }
    };
    x.par_chunks_exact(dim).with_min_len(64).map(bounded).collect()
}

/// Whether products with the row `x` have the precision of f32.
fn is_bounded(norm: f32, x: &[f32]) -> bool {
    NORMS.contains(&norm) || x.iter().all(|&x| x == 0.0)
}

/// The widest vectors that can be coded: the sum of their products, each at most 255 * 127, and what it starts with fit an `i32`.
pub const MAX_DIM: usize = 32_768;

/// What is taken off every vector before it is coded. Any vector serves; the mean of the candidates serves best.
pub struct Centre {
    values: Vec<f32>,
    norm: f32,
}

impl Centre {
    /// The mean of every `step`-th row of `x`, `[n, dim]`, those of extreme norm left out.
    ///
    /// # Panics
    /// Where `step` is 0.
    pub fn of(x: &[f32], dim: usize, step: usize) -> Self {
        let isa = Detected::widest();
        let (mut sum, mut n) = (vec![0.0; dim], 0.0);
        for row in x.chunks_exact(dim).step_by(step) {
            if NORMS.contains(&norm(isa, row)) {
                n += 1.0;
                for (sum, x) in sum.iter_mut().zip(row) {
                    *sum += x;
                }
            }
        }
        let values: Vec<f32> = sum.into_iter().map(|sum| sum / f32::max(n, 1.0)).collect();
        let norm = norm(isa, &values);
        if NORMS.contains(&norm) { Centre { values, norm } } else { Centre { values: vec![0.0; dim], norm: 0.0 } }
    }

    /// Width of the vectors.
    pub fn dim(&self) -> usize {
        self.values.len()
    }
}

/// What the score of a query is computed from besides codes. The error is `residual * p.norm + norm * p.residual + slack * p.slack`.
#[derive(Clone, Copy, Debug)]
pub(super) struct QueryTerms {
    /// -128 times the sum of the codes: what sums start with, since candidates are coded as code + 128.
    pub(super) start: i32,
    pub(super) scale: f32,
    /// Belongs to every score of the query.
    pub(super) offset: f32,
    /// Norm of what the codes miss.
    pub(super) residual: f32,
    /// Norm of what the codes stand for.
    pub(super) norm: f32,
    /// Norm of the query plus that of the centre.
    pub(super) slack: f32,
}

impl QueryTerms {
    /// The largest error of the score of candidate `j` of a panel.
    pub(super) fn error(&self, terms: &CandidateTerms, j: usize) -> f32 {
        self.residual * terms.norm[j] + self.norm * terms.residual[j] + self.slack * terms.slack[j]
    }
}

/// What the scores of the candidates of a panel are computed from besides codes.
#[derive(Clone, Debug)]
pub(super) struct CandidateTerms {
    pub(super) scale: [f32; PANEL],
    /// Product with the centre.
    pub(super) offset: [f32; PANEL],
    /// Norm of the candidate less the centre.
    pub(super) norm: [f32; PANEL],
    /// Norm of what the codes miss.
    pub(super) residual: [f32; PANEL],
    /// What f32 sums may lose, relative to the query's `slack`.
    pub(super) slack: [f32; PANEL],
}

impl Default for CandidateTerms {
    fn default() -> Self {
        let zeros = [0.0; PANEL];
        CandidateTerms { scale: zeros, offset: zeros, norm: zeros, residual: zeros, slack: zeros }
    }
}

/// Four codes of each candidate of a panel, as code + 128, the first in the low byte.
#[derive(Clone, Copy)]
#[repr(align(64))]
pub(super) struct FourOfAPanel(pub(super) [u32; PANEL]);

/// Coded queries.
pub struct Queries {
    /// `[n_rows][quads]`.
    codes: Vec<u32>,
    terms: Vec<QueryTerms>,
    dim: usize,
}

impl Queries {
    /// Codes the rows of `x`, `[n, dim]`.
    ///
    /// # Panics
    /// Where a row is wider than [`MAX_DIM`].
    pub fn new<'a>(x: impl IntoIterator<Item = &'a [f32]>, centre: &Centre) -> Self {
        let dim = centre.dim();
        let mut coder = Coder::new(centre);
        let mut queries = Queries { codes: Vec::new(), terms: Vec::new(), dim };
        for row in x {
            let Coded { sum, scale, offset, residual, code_norm, norm, .. } = coder.code(row);
            let start = -128 * sum;
            // With `m` the centre: `(q - m) . m = q . m - m . m`.
            let offset = offset - centre.norm * centre.norm;
            queries.terms.push(QueryTerms {
                start,
                scale,
                offset,
                residual,
                norm: code_norm,
                slack: norm + centre.norm,
            });
            queries.codes.extend(coder.codes.chunks_exact(4).map(|four| quad(four, 0)));
        }
        queries
    }

    /// Number of queries.
    pub fn n_rows(&self) -> usize {
        self.terms.len()
    }

    pub(super) fn dim(&self) -> usize {
        self.dim
    }

    pub(super) fn terms(&self) -> &[QueryTerms] {
        &self.terms
    }

    pub(super) fn codes(&self, rows: std::ops::Range<usize>) -> &[u32] {
        let quads = self.dim.div_ceil(4);
        &self.codes[rows.start * quads..rows.end * quads]
    }
}

/// Coded candidates: a quarter of the memory of their f32.
pub struct Candidates {
    /// `[panel][quads]`.
    panels: Vec<FourOfAPanel>,
    terms: Vec<CandidateTerms>,
    n_rows: usize,
    dim: usize,
}

impl Candidates {
    /// Codes every `step`-th row of `x`, `[n, dim]`, in parallel in the current rayon pool.
    ///
    /// # Panics
    /// Where `step` is 0, or a row is wider than [`MAX_DIM`].
    pub fn new(x: &[f32], centre: &Centre, step: usize) -> Self {
        let dim = centre.dim();
        let quads = dim.div_ceil(4);
        let n_rows = (x.len() / dim).div_ceil(step);
        let n_panels = n_rows.div_ceil(PANEL);
        let mut panels = vec![FourOfAPanel([0; PANEL]); n_panels * quads];
        let mut terms = vec![CandidateTerms::default(); n_panels];
        panels.par_chunks_mut(quads).zip(&mut terms).enumerate().for_each_init(
            || Coder::new(centre),
            |coder, (panel, (codes, terms))| {
                for j in 0..PANEL.min(n_rows - panel * PANEL) {
                    let row = &x[(panel * PANEL + j) * step * dim..][..dim];
                    let coded = coder.code(row);
                    terms.scale[j] = coded.scale;
                    terms.offset[j] = coded.offset;
                    terms.norm[j] = coded.centred_norm;
                    terms.residual[j] = coded.residual;
                    terms.slack[j] = rounding(dim) * (coded.norm + centre.norm);
                    for (codes, four) in codes.iter_mut().zip(coder.codes.chunks_exact(4)) {
                        codes.0[j] = quad(four, 0x80);
                    }
                }
            },
        );
        Candidates { panels, terms, n_rows, dim }
    }

    /// Number of candidates.
    pub fn n_rows(&self) -> usize {
        self.n_rows
    }

    /// How far the score of a candidate for a query may be from what [`dots`](super::dots) says; infinite or no number where nothing
    /// is known.
    pub fn error(&self, queries: &Queries, query: usize, candidate: u32) -> f32 {
        let candidate = candidate as usize;
        queries.terms[query].error(&self.terms[candidate / PANEL], candidate % PANEL)
    }

    pub(super) fn dim(&self) -> usize {
        self.dim
    }

    pub(super) fn panel(&self, panel: usize) -> &[FourOfAPanel] {
        let quads = self.dim.div_ceil(4);
        &self.panels[panel * quads..][..quads]
    }

    pub(super) fn terms(&self, panel: usize) -> &CandidateTerms {
        &self.terms[panel]
    }
}

/// Four codes, the first in the low byte; `flip` 0x80 adds 128 to each.
fn quad(four: &[i8], flip: u8) -> u32 {
    four.iter().rev().fold(0, |quad, code| quad << 8 | u32::from(code.cast_unsigned() ^ flip))
}

/// What all sums, norms and terms of a score and of [`dots`](super::dots) may lose, relative to the product of the `slack`s without it.
///
/// A sum in 32 parts has `dim / 32 + 6` roundings of 2^-24 on its way; there are 5 such sums, and about 20 single roundings. The
/// factor is 8 instead of 5.
fn rounding(dim: usize) -> f32 {
    (dim as f32 / 32.0 + 8.0) * 8.0 * f32::EPSILON / 2.0
}

/// Codes one vector after another.
struct Coder<'a> {
    isa: Detected,
    centre: &'a Centre,
    centred: Vec<f32>,
    /// Of the last vector, filled up with zeros to a multiple of four.
    codes: Vec<i8>,
}

/// A coded vector `x`, with `m` the centre.
#[derive(Default)]
struct Coded {
    /// `|x|`
    norm: f32,
    /// `|x - m|`
    centred_norm: f32,
    /// `x . m`
    offset: f32,
    scale: f32,
    /// Sum of the codes.
    sum: i32,
    /// Norm of what the codes stand for.
    code_norm: f32,
    /// Norm of what they miss.
    residual: f32,
}

impl<'a> Coder<'a> {
    fn new(centre: &'a Centre) -> Self {
        let dim = centre.dim();
        assert!(dim <= MAX_DIM, "vectors of {dim} elements, more than {MAX_DIM}");
        Coder { isa: Detected::widest(), centre, centred: vec![0.0; dim], codes: vec![0; dim.next_multiple_of(4)] }
    }

    fn code(&mut self, x: &[f32]) -> Coded {
        let dim = self.centre.dim();
        let mut coded = Coded::default();
        code(self.isa, x, &self.centre.values, &mut self.centred, &mut self.codes[..dim], &mut coded);
        if is_bounded(coded.norm, x) {
            return coded;
        }
        self.codes.fill(0);
        let infinite = f32::INFINITY;
        Coded { norm: infinite, centred_norm: infinite, residual: infinite, ..Coded::default() }
    }
}

per_isa! {
    fn norm<const FMA: bool>(x: &[f32]) -> f32 {
        rows::dot::<FMA>(x, x).sqrt()
    }
}

per_isa! {
    fn code<const FMA: bool>(x: &[f32], centre: &[f32], centred: &mut [f32], codes: &mut [i8], coded: &mut Coded) {
        // 1.5 * 2^23: adding it rounds to an integer, which then stands in the low bits.
        const ROUND: f32 = 12_582_912.0;
        coded.norm = rows::dot::<FMA>(x, x).sqrt();
        coded.offset = rows::dot::<FMA>(x, centre);
        for (centred, (x, centre)) in centred.iter_mut().zip(x.iter().zip(centre)) {
            *centred = x - centre;
        }
        coded.centred_norm = rows::dot::<FMA>(centred, centred).sqrt();
        let largest = largest_magnitude(centred);
        // What is too small for a scale is all residual.
        coded.scale = if largest > 1e-30 { largest / 127.0 } else { 0.0 };
        let inverse = if largest > 1e-30 { 127.0 / largest } else { 0.0 };
        let (mut sum, mut squares) = (0_i32, 0_i32);
        for (centred, code) in centred.iter_mut().zip(codes) {
            let rounded = *centred * inverse + ROUND;
            let integer = rounded.to_bits().wrapping_sub(ROUND.to_bits()) as i32;
            *code = integer as i8;
            // Wrapping, since a NaN makes any integer.
            sum = integer.wrapping_add(sum);
            squares = integer.wrapping_mul(integer).wrapping_add(squares);
            *centred -= coded.scale * (rounded - ROUND);
        }
        coded.sum = sum;
        coded.code_norm = (squares as f32).sqrt() * coded.scale;
        coded.residual = rows::dot::<FMA>(centred, centred).sqrt();
    }
}

/// The largest absolute value, NaN left out.
#[inline(always)]
fn largest_magnitude(x: &[f32]) -> f32 {
    const LANES: usize = 32;
    let mut largest = [0.0; LANES];
    let (chunks, rest) = x.as_chunks::<LANES>();
    for chunk in chunks {
        for (largest, x) in largest.iter_mut().zip(chunk) {
            *largest = if x.abs() > *largest { x.abs() } else { *largest };
        }
    }
    rest.iter().chain(&largest).fold(0.0, |largest, x| if x.abs() > largest { x.abs() } else { largest })
}

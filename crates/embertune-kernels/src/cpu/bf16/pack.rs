//! `f32` matrices as pairs of bf16, in the layouts that [`product`](super::product) reads.
//!
//! Rounding is to nearest, ties to even, as PyTorch's. A sum of odd length gets a zero. What fills the last panel may be anything, which a product ignores.

use std::ops::Range;

use rayon::prelude::*;

use crate::cpu::Buffer;
use crate::cpu::bf16::BLOCK_COLUMNS;
use crate::cpu::bf16::tile::MultiplyPairs;
use crate::cpu::buffer::Pool;
use crate::cpu::isa::{Detected, Isa, per_isa};
use crate::cpu::matmul::View;
use crate::cpu::scatter::Scatter;
use crate::cpu::tiled::transpose::SQUARE;

/// What is paired with the last row of a sum of odd length.
pub(crate) static ZEROS: [f32; BLOCK_COLUMNS] = [0.0; BLOCK_COLUMNS];

/// Columns of a panel of the right side: two AVX-512 registers of sums.
pub(crate) const PANEL: usize = 32;

/// A matrix `[rows, k]` row by row, the sum along the row.
pub(crate) struct Rows {
    data: Buffer,
    /// Number of rows.
    pub(crate) rows: usize,
    /// Pairs in a row.
    pub(crate) pairs: usize,
}

impl Rows {
    /// From `x`, `[rows, k]`.
    pub(crate) fn pack(isa: Detected, pool: &Pool, x: &[f32], k: usize) -> Self {
        let mut rows = Rows::unwritten(pool, x.len().checked_div(k).unwrap_or(0), k);
        if !x.is_empty() {
            let (per_task, pairs) = ((16_384 / k).max(1), rows.pairs);
            rows.as_bits_mut()
                .par_chunks_mut(per_task * pairs)
                .zip(x.par_chunks(per_task * k))
                .for_each(|(out, x)| pack_rows_of_pairs(isa, out, x, k));
        }
        rows
    }

    /// `rows` rows of `k` elements, to be written.
    pub(crate) fn unwritten(pool: &Pool, rows: usize, k: usize) -> Self {
        let pairs = k.div_ceil(2);
        Rows { data: pool.take(rows * pairs), rows, pairs }
    }

    /// All pairs, `[rows, pairs]`, to be written.
    pub(crate) fn as_bits_mut(&mut self) -> &mut [u32] {
        self.data.as_bits_mut()
    }

    /// `n_rows` rows from `row` on, without the pairs before `pairs`; rows are [`Rows::pairs`] apart.
    pub(crate) fn from(&self, row: usize, pairs: Range<usize>, n_rows: usize) -> &[u32] {
        if pairs.is_empty() {
            return &[];
        }
        let start = row * self.pairs;
        &self.data.as_bits()[start + pairs.start..start + (n_rows - 1) * self.pairs + pairs.end]
    }
}

/// A matrix `[k, columns]` in panels of `WIDTH` columns, the sum down the columns: `[panel][pair][column]`.
pub(crate) struct Panels<const WIDTH: usize> {
    data: Buffer,
    /// Number of columns, those that only fill the last panel not counted.
    pub(crate) columns: usize,
    /// Pairs in a column.
    pub(crate) pairs: usize,
}

impl<const WIDTH: usize> Panels<WIDTH> {
    /// From `x`, `[k, columns]`.
    pub(crate) fn pack_rows(isa: Detected, pool: &Pool, x: &[f32], columns: usize) -> Self {
        const PAIRS_PER_TASK: usize = 16;
        let mut panels = Panels::unwritten(pool, columns, x.len().checked_div(columns).unwrap_or(0));
        let to = panels.scatter();
        // Two rows of `x` are a pair of every column.
        x.par_chunks((2 * PAIRS_PER_TASK * columns).max(1)).enumerate().for_each(|(task, rows)| {
            let mut pairs = [0; BLOCK_COLUMNS];
            for (pair, rows) in (task * PAIRS_PER_TASK..).zip(rows.chunks(2 * columns)) {
                let (low, high) = rows.split_at(columns);
                for first in (0..columns).step_by(BLOCK_COLUMNS) {
                    let stretch = first..columns.min(first + BLOCK_COLUMNS);
                    let pairs = &mut pairs[..stretch.len()];
                    // The sum may be odd.
                    let high = if high.is_empty() { &ZEROS[..stretch.len()] } else { &high[stretch.clone()] };
                    zip_pairs(isa, pairs, &low[stretch], high);
                    // SAFETY: these pairs of all columns are this task's.
                    unsafe { to.write(pair, first, pairs) };
                }
            }
        });
        panels
    }

    /// Panels of `columns` columns and `k` rows, to be written. What fills the last panel may hold anything: a product ignores it.
    pub(crate) fn unwritten(pool: &Pool, columns: usize, k: usize) -> Self {
        let pairs = k.div_ceil(2);
        Panels { data: pool.take(columns.div_ceil(WIDTH) * pairs * WIDTH), columns, pairs }
    }

    /// For tasks that each write some pairs of some columns.
    pub(crate) fn scatter(&mut self) -> PanelScatter<'_, WIDTH> {
        PanelScatter { pairs: self.pairs, data: Scatter::new(self.data.as_bits_mut()) }
    }

    /// Some pairs of a panel, `[pairs][WIDTH]`.
    pub(crate) fn part(&self, panel: usize, pairs: Range<usize>) -> &[u32] {
        let start = panel * self.pairs;
        &self.data.as_bits()[(start + pairs.start) * WIDTH..(start + pairs.end) * WIDTH]
    }
}

impl Panels<PANEL> {
    /// From the transposed matrix `x`, `[columns, k]`.
    pub(crate) fn pack_columns(isa: Detected, pool: &Pool, x: &[f32], k: usize) -> Self {
        const PAIRS_PER_TASK: usize = 16 * SQUARE;
        let mut panels = Panels::unwritten(pool, x.len().checked_div(k).unwrap_or(0), k);
        let (pairs, x) = (panels.pairs, View::rows(x, panels.columns, k, k));
        if pairs > 0 {
            panels.data.as_bits_mut().par_chunks_mut(pairs * PANEL).enumerate().for_each(|(panel, data)| {
                let parts = data.par_chunks_mut(PAIRS_PER_TASK * PANEL).enumerate();
                parts.for_each(|(part, data)| pack_transposed_part(isa, data, x, panel, part * PAIRS_PER_TASK));
            });
        }
        panels
    }
}

/// Panels that tasks write in parallel, each its own columns and pairs.
pub(crate) struct PanelScatter<'a, const WIDTH: usize> {
    pairs: usize,
    data: Scatter<'a, u32>,
}

impl<const WIDTH: usize> PanelScatter<'_, WIDTH> {
    /// Writes a pair of each of some columns, which begin with a panel.
    ///
    /// # Safety
    /// While this runs no other thread writes this pair of these columns.
    pub(crate) unsafe fn write(&self, pair: usize, first_column: usize, pairs: &[u32]) {
        assert!(first_column.is_multiple_of(WIDTH) && pair < self.pairs, "pair {pair} of column {first_column}");
        let (whole, rest) = pairs.as_chunks::<WIDTH>();
        let at = |panel: usize| ((first_column / WIDTH + panel) * self.pairs + pair) * WIDTH;
        // SAFETY: by the contract. A copy of known size is a few instructions, another a call.
        whole.iter().enumerate().for_each(|(panel, whole)| unsafe { self.data.write(at(panel), whole) });
        if !rest.is_empty() {
            // SAFETY: by the contract.
            unsafe { self.data.write(at(whole.len()), rest) };
        }
    }
}

/// The bf16 nearest to `x`, in the low half. NaN stays NaN.
#[inline(always)]
fn bf16_bits(x: f32) -> u32 {
    let bits = x.to_bits();
    let rounded = bits.wrapping_add(0x7FFF + ((bits >> 16) & 1)) >> 16;
    // Rounding could carry a NaN's mantissa into the exponent.
    if x.is_nan() { (bits >> 16) | 0x40 } else { rounded }
}

const _: () = assert!(cfg!(target_endian = "little"), "the low half of a pair is the first in memory");

/// The bf16 of pairs one by one.
#[inline(always)]
fn halves(pairs: &[u32]) -> &[u16] {
    // SAFETY: a `u32` is two `u16`, whose alignment is less, and every bit pattern is valid for both.
    unsafe { std::slice::from_raw_parts(pairs.as_ptr().cast(), 2 * pairs.len()) }
}

/// The bf16 of pairs one by one, to be written.
#[inline(always)]
fn halves_mut(pairs: &mut [u32]) -> &mut [u16] {
    // SAFETY: as in `halves`; `&mut` makes the borrow unique.
    unsafe { std::slice::from_raw_parts_mut(pairs.as_mut_ptr().cast(), 2 * pairs.len()) }
}

#[inline(always)]
fn pair(low: f32, high: f32) -> u32 {
    bf16_bits(low) | bf16_bits(high) << 16
}

/// Rows of `k` elements as rows of pairs.
pub(crate) fn pack_rows_of_pairs(isa: Detected, out: &mut [u32], x: &[f32], k: usize) {
    let rows = out.chunks_exact_mut(k.div_ceil(2)).zip(x.chunks_exact(k));
    match Converter::new(isa) {
        Some(converter) => rows.for_each(|(out, x)| converter.row(out, x)),
        None => rows.for_each(|(out, x)| round_row(isa, out, x)),
    }
}

/// A row as pairs. Its own elements become what the pairs hold.
pub(crate) fn pack_and_round(isa: Detected, out: &mut [u32], x: &mut [f32]) {
    match Converter::new(isa) {
        Some(converter) => converter.round(out, x),
        None => {
            round_row(isa, out, x);
            unpack_row(isa, x, out);
        }
    }
}

per_isa! {
    /// A row as pairs.
    fn round_row<const FMA: bool>(out: &mut [u32], x: &[f32]) {
        if x.len() % 2 == 1 && let Some(last) = out.last_mut() {
            *last = 0;
        }
        for (out, &x) in halves_mut(out).iter_mut().zip(x) {
            *out = bf16_bits(x) as u16;
        }
    }
}

per_isa! {
    /// The elements of a row of pairs.
    pub(crate) fn unpack_row<const FMA: bool>(out: &mut [f32], pairs: &[u32]) {
        for (out, &half) in out.iter_mut().zip(halves(pairs)) {
            *out = f32::from_bits(u32::from(half) << 16);
        }
    }
}

/// Begins to bring a row of pairs into the cache that will be read soon.
#[inline(always)]
pub(crate) fn prefetch(pairs: &[u32]) {
    #[cfg(target_arch = "x86_64")]
    for line in pairs.chunks(crate::cpu::buffer::LINE) {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: it reads no memory that the program could observe, and the address is of a slice.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(line.as_ptr().cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = pairs;
}

/// Pairs of two rows.
pub(crate) fn zip_pairs(isa: Detected, out: &mut [u32], low: &[f32], high: &[f32]) {
    match Converter::new(isa) {
        Some(converter) => converter.zip(out, low, high),
        None => round_pairs(isa, out, low, high),
    }
}

per_isa! {
    /// Pairs of two rows.
    fn round_pairs<const FMA: bool>(out: &mut [u32], low: &[f32], high: &[f32]) {
        for (out, (&low, &high)) in out.iter_mut().zip(low.iter().zip(high)) {
            *out = pair(low, high);
        }
    }
}

/// Rows of a matrix that lie in one piece each as rows of pairs: `[rows][pairs]`.
pub(crate) fn pack_view(isa: Detected, out: &mut [u32], x: View<'_>) {
    let k = x.n_cols();
    for (row, out) in out.chunks_exact_mut(k.div_ceil(2)).enumerate() {
        pack_rows_of_pairs(isa, out, x.row(row, 0..k), k);
    }
}

/// The panels of a matrix `[k, columns]` whose rows lie in one piece each, on this thread: `[panel][pair][PANEL]`.
pub(crate) fn pack_panels(isa: Detected, out: &mut [u32], x: View<'_>) {
    let (k, columns) = (x.n_rows(), x.n_cols());
    for (panel, out) in out.chunks_exact_mut((k.div_ceil(2) * PANEL).max(1)).enumerate() {
        let columns = panel * PANEL..columns.min((panel + 1) * PANEL);
        for (pair, out) in out.chunks_exact_mut(PANEL).enumerate() {
            let low = x.row(2 * pair, columns.clone());
            let high = if 2 * pair + 1 < k { x.row(2 * pair + 1, columns.clone()) } else { &ZEROS[..low.len()] };
            zip_pairs(isa, &mut out[..low.len()], low, high);
        }
    }
}

/// The panels of the transposed matrix of `x`, `[columns, k]`, whose rows lie in one piece each, on this thread: `[panel][pair][PANEL]`.
pub(crate) fn pack_transposed_panels(isa: Detected, out: &mut [u32], x: View<'_>) {
    for (panel, out) in out.chunks_exact_mut((x.n_cols().div_ceil(2) * PANEL).max(1)).enumerate() {
        pack_transposed_part(isa, out, x, panel, 0);
    }
}

/// Pairs from `first` on, a multiple of [`SQUARE`], of panel `panel` of the transposed matrix of `x`: `[pair][PANEL]`.
fn pack_transposed_part(isa: Detected, out: &mut [u32], x: View<'_>, panel: usize, first: usize) {
    let (columns, k) = (x.n_rows(), x.n_cols());
    for column in (panel * PANEL..columns.min((panel + 1) * PANEL)).step_by(SQUARE) {
        for (square, out) in out.chunks_mut(SQUARE * PANEL).enumerate() {
            let from = 2 * (first + square * SQUARE);
            let steps = from..k.min(from + 2 * SQUARE);
            let row = |i: usize| if column + i < columns { x.row(column + i, steps.clone()) } else { &[] };
            let (rows, n_pairs) = (std::array::from_fn(row), steps.len().div_ceil(2));
            let out = &mut out[column % PANEL..];
            match Converter::new(isa) {
                Some(converter) => converter.transposed_square(out, &rows, n_pairs),
                None => transpose_square(isa, out, &rows, n_pairs),
            }
        }
    }
}

/// `out[pair * PANEL + i]` = pair `pair` of row `i`, on any machine.
fn transpose_square(isa: Detected, out: &mut [u32], rows: &[&[f32]; SQUARE], n_pairs: usize) {
    let mut pairs = [0; SQUARE];
    for (i, row) in rows.iter().enumerate().filter(|(_, row)| !row.is_empty()) {
        round_row(isa, &mut pairs[..n_pairs], row);
        pairs[..n_pairs].iter().enumerate().for_each(|(pair, &value)| out[pair * PANEL + i] = value);
    }
}

/// Rounds by the CPU's own instructions, which take numbers below the least normal one as zero, as its products do: the proof that it has them.
#[derive(Clone, Copy)]
struct Converter(());

impl Converter {
    /// Where `isa` is AVX-512 and the machine has AVX-512 BF16, too.
    fn new(isa: Detected) -> Option<Self> {
        let present = isa.isa() == Isa::Avx512 && MultiplyPairs::native().is_some();
        present.then_some(Converter(()))
    }

    /// A row as pairs.
    fn row(self, out: &mut [u32], x: &[f32]) {
        assert_eq!(out.len(), x.len().div_ceil(2), "pairs of a row of {}", x.len());
        #[cfg(target_arch = "x86_64")]
        // SAFETY: `self` exists only where the features were found; `out` holds a pair for every two elements of `x`.
        unsafe {
            x86::row(out.as_mut_ptr(), x)
        }
    }

    /// A row as pairs, and its elements rounded.
    fn round(self, out: &mut [u32], x: &mut [f32]) {
        assert_eq!(out.len(), x.len().div_ceil(2), "pairs of a row of {}", x.len());
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as in `row`.
        unsafe {
            x86::round(out.as_mut_ptr(), x)
        }
    }

    /// Pairs of two rows.
    fn zip(self, out: &mut [u32], low: &[f32], high: &[f32]) {
        assert!(out.len() == low.len() && out.len() == high.len(), "pairs of rows of {} and {}", low.len(), high.len());
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as in `row`; all three are equally long.
        unsafe {
            x86::zip(out, low.as_ptr(), high.as_ptr())
        }
    }

    /// `out[pair * PANEL + i]` = pair `pair` of row `i`, for up to 16 pairs.
    fn transposed_square(self, out: &mut [u32], rows: &[&[f32]; SQUARE], n_pairs: usize) {
        assert!(
            (1..=SQUARE).contains(&n_pairs) && (n_pairs - 1) * PANEL + SQUARE <= out.len(),
            "a square leaves its panel"
        );
        assert!(rows.iter().all(|row| row.len() <= 2 * n_pairs), "a row of a square is longer than {n_pairs} pairs");
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as in `row`; the square is within `out`, and a register holds 16 pairs of a row.
        unsafe {
            x86::transposed_square(out.as_mut_ptr(), rows, n_pairs)
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::{PANEL, SQUARE};
    use crate::cpu::tiled::transpose::x86::transposed;

    /// The mask of the first `n <= 32` lanes.
    fn lanes(n: usize) -> u32 {
        ((1_u64 << n) - 1) as u32
    }

    /// Up to 32 elements as pairs, zeros behind them.
    ///
    /// # Safety
    /// The machine has AVX-512 F, BW and BF16; `n` elements are readable at `x`.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    unsafe fn pairs(x: *const f32, n: usize) -> __m512i {
        let mask = lanes(n);
        // SAFETY: masked loads touch the first `n` elements alone.
        let (low, high) = unsafe {
            (_mm512_maskz_loadu_ps(mask as u16, x), _mm512_maskz_loadu_ps((mask >> 16) as u16, x.wrapping_add(16)))
        };
        bits(_mm512_cvtne2ps_pbh(high, low))
    }

    /// 32 elements as pairs. Without a mask, since the CPU does not forward what was just stored under one.
    ///
    /// # Safety
    /// The machine has AVX-512 F, BW and BF16.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    unsafe fn whole_pairs(x: &[f32; 32]) -> __m512i {
        // SAFETY: 32 elements.
        unsafe { bits(_mm512_cvtne2ps_pbh(_mm512_loadu_ps(x[16..].as_ptr()), _mm512_loadu_ps(x.as_ptr()))) }
    }

    /// # Safety
    /// The machine has AVX-512 F, BW and BF16; `x.len().div_ceil(2)` elements at `out` are valid for writes.
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    pub(super) unsafe fn row(out: *mut u32, x: &[f32]) {
        let (whole, rest) = x.as_chunks::<32>();
        // SAFETY: there is a pair for every two elements of `x`, and masked loads and stores touch no more.
        unsafe {
            for (i, x) in whole.iter().enumerate() {
                _mm512_storeu_si512(out.add(i * 16).cast(), whole_pairs(x));
            }
            if !rest.is_empty() {
                let mask = lanes(rest.len().div_ceil(2)) as u16;
                _mm512_mask_storeu_epi32(out.add(whole.len() * 16).cast(), mask, pairs(rest.as_ptr(), rest.len()));
            }
        }
    }

    /// # Safety
    /// As [`row`].
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    pub(super) unsafe fn round(out: *mut u32, x: &mut [f32]) {
        let halves = |pairs| {
            let rounded = |half| _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(half)));
            [rounded(_mm512_castsi512_si256(pairs)), rounded(_mm512_extracti64x4_epi64::<1>(pairs))]
        };
        let (whole, rest) = x.as_chunks_mut::<32>();
        let done = whole.len();
        // SAFETY: as in `row`.
        unsafe {
            for (i, x) in whole.iter_mut().enumerate() {
                let pairs = whole_pairs(x);
                _mm512_storeu_si512(out.add(i * 16).cast(), pairs);
                let [low, high] = halves(pairs);
                _mm512_storeu_ps(x.as_mut_ptr(), low);
                _mm512_storeu_ps(x[16..].as_mut_ptr(), high);
            }
            if !rest.is_empty() {
                let (n, mask) = (rest.len(), lanes(rest.len()));
                let pairs = pairs(rest.as_ptr(), n);
                _mm512_mask_storeu_epi32(out.add(done * 16).cast(), lanes(n.div_ceil(2)) as u16, pairs);
                let [low, high] = halves(pairs);
                _mm512_mask_storeu_ps(rest.as_mut_ptr(), mask as u16, low);
                _mm512_mask_storeu_ps(rest.as_mut_ptr().wrapping_add(16), (mask >> 16) as u16, high);
            }
        }
    }

    /// # Safety
    /// The machine has AVX-512 F, BW and BF16; `out.len()` elements are readable at `low` and `high`.
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    pub(super) unsafe fn zip(out: &mut [u32], low: *const f32, high: *const f32) {
        // Word `2 i` from the low half, `2 i + 1` from the high one.
        let order: [u16; 32] = std::array::from_fn(|i| (i / 2 + i % 2 * 16) as u16);
        // SAFETY: 32 words.
        let order = unsafe { _mm512_loadu_si512(order.as_ptr().cast()) };
        let zipped = |low, high| _mm512_permutexvar_epi16(order, bits(_mm512_cvtne2ps_pbh(high, low)));
        let (whole, rest) = out.as_chunks_mut::<16>();
        let done = whole.len() * 16;
        // SAFETY: as many elements are at `low` and `high`; masked loads and stores touch no more.
        unsafe {
            for (i, out) in whole.iter_mut().enumerate() {
                let pairs = zipped(_mm512_loadu_ps(low.add(i * 16)), _mm512_loadu_ps(high.add(i * 16)));
                _mm512_storeu_si512(out.as_mut_ptr().cast(), pairs);
            }
            if !rest.is_empty() {
                let mask = lanes(rest.len()) as u16;
                let load = |row: *const f32| _mm512_maskz_loadu_ps(mask, row.add(done));
                _mm512_mask_storeu_epi32(rest.as_mut_ptr().cast(), mask, zipped(load(low), load(high)));
            }
        }
    }

    /// # Safety
    /// The machine has AVX-512 F, BW and BF16; 16 elements at each of the first `n_pairs <= 16` multiples of `PANEL` of `out` are valid for writes.
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    pub(super) unsafe fn transposed_square(out: *mut u32, rows: &[&[f32]; SQUARE], n_pairs: usize) {
        let mut registers = [_mm512_setzero_ps(); SQUARE];
        for (register, row) in registers.iter_mut().zip(rows) {
            // SAFETY: as long as the row is.
            *register = _mm512_castsi512_ps(unsafe { pairs(row.as_ptr(), row.len()) });
        }
        for (pair, &values) in transposed(registers).iter().enumerate().take(n_pairs) {
            // SAFETY: by the contract.
            unsafe { _mm512_storeu_ps(out.add(pair * PANEL).cast(), values) };
        }
    }

    /// The same bits as integers.
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn bits(pairs: __m512bh) -> __m512i {
        // SAFETY: both are 512 bits in which every pattern is valid.
        unsafe { std::mem::transmute(pairs) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::seeded;

    /// Pairs of a matrix in every layout, with what is behind the pairs left as it was.
    fn packed(isa: Detected, rows: usize, k: usize) -> Vec<Vec<u32>> {
        let x = seeded(rows * (k + 3), 1);
        let view = View::rows(&x, rows, k, k + 3);
        let untouched = |len| vec![u32::MAX; len];
        let mut as_rows = untouched(rows * k.div_ceil(2));
        pack_view(isa, &mut as_rows, view);
        let mut as_panels = untouched(rows.div_ceil(2) * k.next_multiple_of(PANEL));
        pack_panels(isa, &mut as_panels, view);
        let mut transposed = untouched(k.div_ceil(2) * rows.next_multiple_of(PANEL));
        pack_transposed_panels(isa, &mut transposed, view);
        let mut rounded = View::rows(&x, rows, k, k + 3).row(0, 0..k).to_vec();
        let mut of_rounded = untouched(k.div_ceil(2));
        pack_and_round(isa, &mut of_rounded, &mut rounded);
        let rounded = rounded.into_iter().map(f32::to_bits).collect();
        // What fills the last panel may be anything.
        for (panel, transposed) in transposed.chunks_exact_mut(k.div_ceil(2) * PANEL).enumerate() {
            let n = PANEL.min(rows - panel * PANEL);
            transposed.chunks_exact_mut(PANEL).for_each(|pair| pair[n..].fill(0));
        }
        vec![as_rows, as_panels, transposed, of_rounded, rounded]
    }

    #[test]
    fn the_cpu_rounds_matrices_of_any_size_as_loops_do() {
        let Some(portable) = Detected::new(Isa::Portable) else { unreachable!() };
        for k in 1..70 {
            for rows in [1, 2, 15, 16, 17, 31, 32, 33, 64, 65] {
                assert_eq!(packed(Detected::widest(), rows, k), packed(portable, rows, k), "{rows} x {k}");
            }
        }
    }
}

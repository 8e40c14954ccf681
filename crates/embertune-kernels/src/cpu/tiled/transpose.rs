//! Squares of 16 x 16 elements, transposed in registers.

use super::tile::Tiles;

/// Elements of a register.
pub(crate) const SQUARE: usize = 16;

impl Tiles {
    /// `to[step * to_stride + i] = rows[i][step]` for all 16 `i`, where rows that are empty count as zeros and all others are equally long, up to 16.
    pub(super) fn transpose(self, to: &mut [f32], to_stride: usize, rows: &[&[f32]; SQUARE]) {
        let n_steps = rows[0].len();
        assert!(n_steps <= SQUARE, "a square of {n_steps} columns");
        assert!(rows.iter().all(|row| row.is_empty() || row.len() == n_steps), "rows of a square differ in length");
        if n_steps == 0 {
            let n_steps = to.len().saturating_sub(SQUARE) / to_stride + 1;
            (0..n_steps).for_each(|step| to[step * to_stride..][..SQUARE].fill(0.0));
            return;
        }
        assert!((n_steps - 1) * to_stride + SQUARE <= to.len(), "a square leaves its panel");
        #[cfg(target_arch = "x86_64")]
        // SAFETY: `self` exists only where AVX-512 was found; the slices are as long as asserted.
        unsafe {
            x86::transpose(to.as_mut_ptr(), to_stride, rows, n_steps)
        }
    }
}

#[cfg(target_arch = "x86_64")]
pub(crate) mod x86 {
    use std::arch::x86_64::*;

    use super::SQUARE;

    /// # Safety
    /// The machine has AVX-512 F. `to` is valid for writes of 16 elements at each of `n_steps <= 16` multiples of `to_stride`; rows
    /// have `n_steps` elements or none.
    #[target_feature(enable = "avx512f")]
    pub(super) unsafe fn transpose(to: *mut f32, to_stride: usize, rows: &[&[f32]; SQUARE], n_steps: usize) {
        let mask = |row: &[f32]| ((1_u32 << row.len()) - 1) as u16;
        let mut registers = [_mm512_setzero_ps(); SQUARE];
        for (register, row) in registers.iter_mut().zip(rows) {
            // SAFETY: masked loads touch the elements of a row alone.
            *register = unsafe { _mm512_maskz_loadu_ps(mask(row), row.as_ptr()) };
        }
        for (step, &values) in transposed(registers).iter().enumerate().take(n_steps) {
            // SAFETY: by the contract.
            unsafe { _mm512_storeu_ps(to.add(step * to_stride), values) };
        }
    }

    /// Register `i` of the result holds element `i` of every register.
    #[inline]
    #[target_feature(enable = "avx512f")]
    pub(crate) fn transposed(rows: [__m512; SQUARE]) -> [__m512; SQUARE] {
        // Pairs of rows, then quads: register `4 q + c` holds, in its 128-bit part `p`, column `4 p + c` of the rows `4 q..4 q + 4`.
        let mut pairs = [_mm512_setzero_pd(); SQUARE];
        for i in (0..SQUARE).step_by(2) {
            pairs[i] = _mm512_castps_pd(_mm512_unpacklo_ps(rows[i], rows[i + 1]));
            pairs[i + 1] = _mm512_castps_pd(_mm512_unpackhi_ps(rows[i], rows[i + 1]));
        }
        let mut quads = [_mm512_setzero_ps(); SQUARE];
        for i in (0..SQUARE).step_by(2) {
            let half = (i & !3) + (i & 2) / 2;
            quads[i] = _mm512_castpd_ps(_mm512_unpacklo_pd(pairs[half], pairs[half + 2]));
            quads[i + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(pairs[half], pairs[half + 2]));
        }
        let mut columns = [_mm512_setzero_ps(); SQUARE];
        for column in 0..4 {
            let [a, b, c, d] = [quads[column], quads[4 + column], quads[8 + column], quads[12 + column]];
            let (ab_low, ab_high) = (_mm512_shuffle_f32x4::<0x44>(a, b), _mm512_shuffle_f32x4::<0xEE>(a, b));
            let (cd_low, cd_high) = (_mm512_shuffle_f32x4::<0x44>(c, d), _mm512_shuffle_f32x4::<0xEE>(c, d));
            columns[column] = _mm512_shuffle_f32x4::<0x88>(ab_low, cd_low);
            columns[4 + column] = _mm512_shuffle_f32x4::<0xDD>(ab_low, cd_low);
            columns[8 + column] = _mm512_shuffle_f32x4::<0x88>(ab_high, cd_high);
            columns[12 + column] = _mm512_shuffle_f32x4::<0xDD>(ab_high, cd_high);
        }
        columns
    }
}

//! A tile of the output in registers: [`TILE`] rows by [`PANEL`] columns, 24 of the 32 AVX-512 registers.

use crate::cpu::bf16::pack::PANEL;

/// Rows of a tile. 12 x 32 sums leave registers for two of the right side; each pair of the left side is broadcast from memory.
pub(crate) const TILE: usize = 12;

/// What the sums of a product start with.
#[derive(Clone, Copy)]
pub(crate) enum Start<'a> {
    /// Zero: the output is replaced.
    Zero,
    /// One row for every row of the output: a bias.
    Row(&'a [f32]),
    /// What is there: the product is added.
    Output,
}

/// One tile of a product.
pub(crate) struct Tile<'a> {
    /// Pair `p` of row `i` is at `i * row_stride + p * pair_stride`.
    pub(crate) left: &'a [u32],
    pub(crate) row_stride: usize,
    pub(crate) pair_stride: usize,
    /// `[n_pairs][PANEL]`.
    pub(crate) right: &'a [u32],
    /// What will be read soon, of which a line for every pair is brought into L2.
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code, reason = "the portable tile leaves it to the CPU"))]
    pub(crate) next: &'a [u32],
    pub(crate) n_pairs: usize,
    /// Rows of the output, `1..=TILE`.
    pub(crate) n_rows: usize,
    /// Columns of the output, `1..=PANEL`.
    pub(crate) n_columns: usize,
    pub(crate) start: Start<'a>,
    /// The first element of the output; rows are `out_stride` apart.
    pub(crate) out: *mut f32,
    pub(crate) out_stride: usize,
}

/// How pairs are multiplied: the proof that this machine can.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MultiplyPairs {
    native: bool,
}

impl MultiplyPairs {
    /// By AVX-512 BF16, where the machine has it.
    pub(crate) fn native() -> Option<Self> {
        #[cfg(target_arch = "x86_64")]
        let present = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512bf16");
        #[cfg(not(target_arch = "x86_64"))]
        let present = false;
        present.then_some(MultiplyPairs { native: true })
    }

    /// In f32, on any machine: the same up to the order of the sums, and slow.
    pub(crate) fn emulated() -> Self {
        MultiplyPairs { native: false }
    }

    /// Computes a tile.
    ///
    /// # Safety
    /// The `n_rows` rows of `n_columns` elements at `out`, `out_stride` apart, are valid for reads and writes, and no other thread
    /// touches them during the call.
    pub(super) unsafe fn tile(self, tile: &Tile<'_>) {
        let Tile { row_stride, pair_stride, n_pairs, n_rows, n_columns, .. } = *tile;
        assert!((1..=TILE).contains(&n_rows) && (1..=PANEL).contains(&n_columns), "a tile of {n_rows} x {n_columns}");
        assert_eq!(tile.right.len(), n_pairs * PANEL, "right side of a tile");
        assert!(
            n_pairs == 0 || (n_rows - 1) * row_stride + (n_pairs - 1) * pair_stride < tile.left.len(),
            "left side of a tile"
        );
        if let Start::Row(row) = tile.start {
            assert_eq!(row.len(), n_columns, "row that a tile starts with");
        }
        #[cfg(target_arch = "x86_64")]
        if self.native {
            // SAFETY: `native` is true only where the features were found; the assertions above bound all reads; the
            // output is the caller's by this function's contract.
            unsafe {
                match n_rows {
                    12 => x86::tile::<12>(tile),
                    11 => x86::tile::<11>(tile),
                    10 => x86::tile::<10>(tile),
                    9 => x86::tile::<9>(tile),
                    8 => x86::tile::<8>(tile),
                    7 => x86::tile::<7>(tile),
                    6 => x86::tile::<6>(tile),
                    5 => x86::tile::<5>(tile),
                    4 => x86::tile::<4>(tile),
                    3 => x86::tile::<3>(tile),
                    2 => x86::tile::<2>(tile),
                    _ => x86::tile::<1>(tile),
                }
            }
            return;
        }
        // SAFETY: the output by this function's contract.
        unsafe { emulated_tile(tile) };
    }
}

/// # Safety
/// As [`MultiplyPairs::tile`].
unsafe fn emulated_tile(tile: &Tile<'_>) {
    let halves = |pair: u32| [f32::from_bits(pair << 16), f32::from_bits(pair & 0xFFFF_0000)];
    for row in 0..tile.n_rows {
        // SAFETY: a row of the output, which is the caller's by the contract.
        let out = unsafe { std::slice::from_raw_parts_mut(tile.out.add(row * tile.out_stride), tile.n_columns) };
        let mut sums = [0.0; PANEL];
        match tile.start {
            Start::Zero => {}
            Start::Row(row) => sums[..row.len()].copy_from_slice(row),
            Start::Output => sums[..out.len()].copy_from_slice(out),
        }
        for (pair, right) in tile.right.chunks_exact(PANEL).enumerate() {
            let [low, high] = halves(tile.left[row * tile.row_stride + pair * tile.pair_stride]);
            for (sum, &right) in sums.iter_mut().zip(right) {
                let [right_low, right_high] = halves(right);
                *sum += low * right_low + high * right_high;
            }
        }
        out.copy_from_slice(&sums[..out.len()]);
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::{PANEL, Start, Tile};
    use crate::cpu::buffer::LINE;

    /// # Safety
    /// The machine has AVX-512 F, BW and BF16. `M` rows of `tile.out`, of `n_columns <= 32` elements each, are valid for reads and
    /// writes. `left` is readable at `i * row_stride + p * pair_stride` for all `i < M`, `p < n_pairs`; `right` at `n_pairs * 32`.
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    pub(super) unsafe fn tile<const M: usize>(tile: &Tile<'_>) {
        let mask = if tile.n_columns == PANEL { u32::MAX } else { (1 << tile.n_columns) - 1 };
        let (mask_low, mask_high) = (mask as u16, (mask >> 16) as u16);
        let mut sums = [[_mm512_setzero_ps(); 2]; M];
        // SAFETY: masked loads and stores touch the first `n_columns` elements of a row alone; the rest by the contract.
        unsafe {
            for (i, sums) in sums.iter_mut().enumerate() {
                let from = match tile.start {
                    Start::Zero => continue,
                    Start::Row(row) => row.as_ptr(),
                    Start::Output => tile.out.add(i * tile.out_stride).cast_const(),
                };
                *sums =
                    [_mm512_maskz_loadu_ps(mask_low, from), _mm512_maskz_loadu_ps(mask_high, from.wrapping_add(16))];
            }
            let (mut left, mut right) = (tile.left.as_ptr(), tile.right.as_ptr());
            // A prefetch may be of any address.
            let mut next = if tile.next.is_empty() { right } else { tile.next.as_ptr() };
            for _ in 0..tile.n_pairs {
                _mm_prefetch::<_MM_HINT_T1>(next.cast());
                next = next.wrapping_add(LINE);
                let low = pairs(_mm512_loadu_si512(right.cast()));
                let high = pairs(_mm512_loadu_si512(right.add(16).cast()));
                for (i, sums) in sums.iter_mut().enumerate() {
                    let row = pairs(_mm512_set1_epi32(left.add(i * tile.row_stride).read().cast_signed()));
                    sums[0] = _mm512_dpbf16_ps(sums[0], row, low);
                    sums[1] = _mm512_dpbf16_ps(sums[1], row, high);
                }
                left = left.wrapping_add(tile.pair_stride);
                right = right.add(PANEL);
            }
            for (i, sums) in sums.iter().enumerate() {
                let out = tile.out.add(i * tile.out_stride);
                _mm512_mask_storeu_ps(out, mask_low, sums[0]);
                _mm512_mask_storeu_ps(out.wrapping_add(16), mask_high, sums[1]);
            }
        }
    }

    /// The same bits as pairs of bf16.
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn pairs(bits: __m512i) -> __m512bh {
        // SAFETY: both are 512 bits in which every pattern is valid.
        unsafe { std::mem::transmute(bits) }
    }
}

//! Dropout masks as a pure function of (text key, site, row, column): counter-based, without hidden state.
//!
//! The same mask comes out whatever batch, chunk, thread or process computes it, so recomputation, resuming and
//! several processes need nothing else. The hash is `lowbias32` (Chris Wellons, "hash-prospector", public domain) over a
//! per-row state mixed by splitmix64.

/// Dropout at one place of the network.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Dropout {
    /// Probability of a zero, in `0.0..1.0`.
    pub p: f32,
    /// Which dropout of the network this is: no two places of a model share a site.
    pub site: u32,
}

impl Dropout {
    /// `1 / (1 - p)`, the factor of what is kept.
    pub fn scale(self) -> f32 {
        1.0 / (1.0 - self.p)
    }

    /// A column is kept where its hash is at least this.
    pub fn threshold(self) -> u32 {
        (f64::from(self.p) * 4_294_967_296.0) as u32
    }

    /// The state of one row of a mask: `text_key` identifies the text, `row` the row within it.
    #[inline]
    pub fn row_state(self, text_key: u64, row: u32) -> u32 {
        let mixed = splitmix64(text_key ^ splitmix64((u64::from(self.site) << 32) | u64::from(row)));
        (mixed ^ (mixed >> 32)) as u32
    }

    /// Whether column `column` of the row with this state is kept.
    #[inline(always)]
    pub fn keeps(self, row_state: u32, column: u32) -> bool {
        hash(row_state, column) >= self.threshold()
    }
}

/// The random number of one element, uniform over `u32`. Two multiplications; compiles to vector code.
#[inline(always)]
pub fn hash(row_state: u32, column: u32) -> u32 {
    let mut x = row_state.wrapping_add(column.wrapping_mul(0x9E37_79B9));
    x ^= x >> 16;
    x = x.wrapping_mul(0x7FEB_352D);
    x ^= x >> 15;
    x = x.wrapping_mul(0x846C_A68B);
    x ^ (x >> 16)
}

/// A bijective mix of 64 bits (Steele, Lea, Flood 2014).
#[inline]
pub fn splitmix64(x: u64) -> u64 {
    let mut z = x.wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn share_of_dropped_columns_is_p() {
        for p in [0.0_f32, 0.1, 0.5] {
            let dropout = Dropout { p, site: 3 };
            let n = 1_000_000_u32;
            let dropped = (0..1000)
                .flat_map(|row| {
                    let state = dropout.row_state(42, row);
                    (0..1000).map(move |column| !dropout.keeps(state, column))
                })
                .filter(|&d| d)
                .count();
            let share = dropped as f64 / f64::from(n);
            // Five standard deviations of a binomial with a million draws.
            assert!((share - f64::from(p)).abs() <= 5.0 * (0.25_f64 / 1e6).sqrt(), "p {p}: {share}");
        }
    }

    #[test]
    fn masks_of_rows_sites_and_texts_are_unrelated() {
        let dropout = Dropout { p: 0.5, site: 0 };
        let bits = |d: Dropout, key, row| {
            let state = d.row_state(key, row);
            (0..4096).map(|c| d.keeps(state, c)).collect::<Vec<_>>()
        };
        let first = bits(dropout, 1, 0);
        for other in [bits(dropout, 1, 1), bits(dropout, 2, 0), bits(Dropout { site: 1, ..dropout }, 1, 0)] {
            let same = first.iter().zip(&other).filter(|(a, b)| a == b).count();
            assert!((1900..2200).contains(&same), "{same} of 4096 agree");
        }
    }
}

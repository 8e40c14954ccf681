//! Random choices as pure functions of what they are for: a key is made of numbers (seed, epoch, row, ...), and a shuffle follows
//! from its key. No generator is carried along, so nothing depends on what was drawn before.

use std::collections::HashMap;

use embertune_kernels::dropout::splitmix64;

/// A key that depends on every one of `parts` and on their order.
pub fn key(parts: &[u64]) -> u64 {
    parts.iter().fold(0, |key, &part| splitmix64(key ^ splitmix64(part)))
}

/// The numbers `0..n` in a random order, made as far as they are asked for: a Fisher-Yates shuffle that stores only the
/// places that were swapped.
pub struct Shuffle {
    n: usize,
    next: usize,
    key: u64,
    moved: HashMap<usize, usize>,
}

impl Shuffle {
    /// The order of `0..n` that belongs to `key`.
    pub fn new(n: usize, key: u64) -> Shuffle {
        Shuffle { n, next: 0, key, moved: HashMap::new() }
    }
}

impl Iterator for Shuffle {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        if self.next == self.n {
            return None;
        }
        let left = self.n - self.next;
        let random = splitmix64(self.key ^ splitmix64(self.next as u64));
        // The high half of a 64 by 64 bit product: uniform over 0..left up to a bias of left / 2^64.
        let pick = self.next + ((u128::from(random) * left as u128) >> 64) as usize;
        let at_next = self.moved.remove(&self.next).unwrap_or(self.next);
        let result = if pick == self.next { at_next } else { self.moved.insert(pick, at_next).unwrap_or(pick) };
        self.next += 1;
        Some(result)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shuffle_is_a_permutation_and_depends_on_the_key() {
        for n in [0, 1, 2, 7, 100] {
            let mut numbers: Vec<_> = Shuffle::new(n, 5).collect();
            numbers.sort_unstable();
            assert_eq!(numbers, (0..n).collect::<Vec<_>>());
        }
        assert_ne!(Shuffle::new(100, 5).collect::<Vec<_>>(), Shuffle::new(100, 6).collect::<Vec<_>>());
    }

    #[test]
    fn every_number_is_equally_likely_at_every_place() {
        let (n, draws) = (5, 20_000_u64);
        let mut count = vec![0_u32; n * n];
        for key in 0..draws {
            for (place, number) in Shuffle::new(n, key).enumerate() {
                count[place * n + number] += 1;
            }
        }
        // Expected 4000; five standard deviations of a binomial are 283.
        assert!(count.iter().all(|&c| (3717..=4283).contains(&c)), "{count:?}");
    }

    #[test]
    fn keys_depend_on_every_part_and_their_order() {
        let keys = [key(&[]), key(&[1]), key(&[0, 1]), key(&[1, 0]), key(&[0, 0]), key(&[1, 0, 0])];
        let distinct: std::collections::HashSet<_> = keys.into_iter().collect();
        assert_eq!(distinct.len(), keys.len());
    }
}

//! Search: a product for the scores, which stay on the device, and one pass over them for the best of each group.

use std::fmt;

use burn_cubecl::CubeRuntime;
use burn_tensor::Tensor;
use cubecl::prelude::*;
use embertune_kernels::search::{GroupBest, SearchDevice};

use crate::Gpu;
use crate::products::product;
use crate::tensors::{Indices, Matrix, array, index_array, matrix};

/// Values of queries, scores, and words that leave the device, at once at most: 64 MB of each.
const AT_ONCE: usize = 1 << 24;
/// A group's best score, its row, and the second best score.
const WORDS: usize = 3;

impl<R: CubeRuntime> fmt::Debug for Gpu<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl<R: CubeRuntime> SearchDevice for Gpu<R> {
    fn best_of_groups(
        &self,
        queries: &[f32],
        candidates: &[f32],
        dim: usize,
        n_groups: usize,
        found: &mut dyn FnMut(usize, &[GroupBest]),
    ) {
        let candidates = matrix(&self.floats(candidates), dim);
        let [n, _] = candidates.dims();
        assert!((1..=n).contains(&n_groups), "{n_groups} groups of {n} candidates");
        let candidates = candidates.transpose();
        let at_once = (AT_ONCE / n.max(n_groups * WORDS).max(dim)).max(1);
        for (i, queries) in queries.chunks(at_once * dim).enumerate() {
            let scores = product(matrix(&self.floats(queries), dim), candidates.clone());
            let words = self.read_indices(groups(self, scores, n_groups));
            let groups = words.chunks_exact(WORDS).map(|words| GroupBest {
                best: f32::from_bits(words[0]),
                row: words[1],
                second: f32::from_bits(words[2]),
            });
            found(i * at_once, &groups.collect::<Vec<_>>());
        }
    }
}

/// `scores`: `[n_queries, n]`; returns `[n_queries, n_groups, 3]`, the scores among them as their bits.
fn groups<R: CubeRuntime>(gpu: &Gpu<R>, scores: Matrix<R>, n_groups: usize) -> Indices<R> {
    let [n_queries, n] = scores.dims();
    let words = Tensor::empty([n_queries * n_groups * WORDS], &gpu.device);
    let (count, dim) = gpu.grid(n_queries * n_groups);
    best::launch::<R>(&gpu.client, count, dim, array(&scores), index_array(&words), n, n_groups, f32::MIN);
    words
}

/// One thread for each group of each query. Those beside each other read scores beside each other, since a group has every `n_groups`-th.
#[cube(launch)]
fn best(scores: &Array<f32>, words: &mut Array<u32>, n: usize, n_groups: usize, lowest: f32) {
    let word = ABSOLUTE_POS * 3;
    if word < words.len() {
        let first = ABSOLUTE_POS / n_groups * n;
        let group = ABSOLUTE_POS % n_groups;
        let mut row = group;
        let mut best = scores[first + group];
        let mut second = lowest;
        let n_others = (n - 1 - group) / n_groups;
        for i in 0..n_others {
            let other = group + (i + 1) * n_groups;
            let score = scores[first + other];
            if score > best {
                second = best;
                best = score;
                row = other;
            } else if score > second {
                second = score;
            }
        }
        words[word] = u32::reinterpret(best);
        words[word + 1] = row as u32;
        words[word + 2] = u32::reinterpret(second);
    }
}

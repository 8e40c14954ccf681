//! First pass on a device with memory of its own. It makes the scores of some queries and a block of candidates, and of these only the best and the
//! second best of each group of candidates leave it.
//!
//! The best of the groups are few more than the wanted, and their exact scores give the floor. Where the second best of a group
//! may reach that, the whole group is scored. All others are at most the second best of their group, so that none of the best is missed.

use embertune_kernels::cpu::scan::bounded_norms;
use embertune_kernels::search::{GroupBest, SearchDevice};
use rayon::prelude::*;

use super::best::{Best, Candidate, reaches, slacks};
use super::exact::{Hit, Part, Wanted};
use crate::progress::Progress;

/// Values of the candidates of a block at most: 64 MB, half of what every Vulkan driver takes in a buffer.
const BLOCK_VALUES: usize = 1 << 24;
/// Groups for each of the wanted: of `k` candidates in 8k groups, a sixteenth share a group with another.
const GROUPS_PER_WANTED: usize = 8;
/// Groups at least, where there are as many candidates.
const MIN_GROUPS: usize = 1024;

/// Finds the best of all queries, those of the parts before among them, and tells `progress` of them.
pub(super) fn search(
    device: &dyn SearchDevice,
    wanted: Wanted<'_>,
    part: Part<'_>,
    found: &mut [Option<Vec<Hit>>],
    progress: &dyn Progress,
) {
    let Wanted { queries, k, so_far } = wanted;
    let dim = queries.dim;
    if queries.n_rows() == 0 || k == 0 || part.values.is_empty() {
        return;
    }
    let slacks = slacks(&queries.values, dim);
    let mut hits = so_far.to_vec();
    let block_rows = (BLOCK_VALUES / dim).max(1);
    for (i, values) in part.values.chunks(block_rows * dim).enumerate() {
        let block = Block::new(Part { first_row: part.row((i * block_rows) as u32), values }, dim, k);
        let n_groups = block.norms_of_groups.len();
        device.best_of_groups(&queries.values, values, dim, n_groups, &mut |first, groups| {
            hits[first..].par_iter_mut().zip(groups.par_chunks_exact(n_groups)).enumerate().for_each(
                |(i, (hits, groups))| {
                    let query = first + i;
                    let best = Best::new(queries.row(query), block.part, k, std::mem::take(hits));
                    *hits = block.best(best, groups, slacks[query]);
                },
            );
        });
    }
    for (found, hits) in found.iter_mut().zip(hits) {
        *found = Some(hits);
    }
    progress.advance(queries.n_rows() as u64);
}

struct Block<'a> {
    part: Part<'a>,
    norms: Vec<f32>,
    /// The largest of each group.
    norms_of_groups: Vec<f32>,
}

impl<'a> Block<'a> {
    fn new(part: Part<'a>, dim: usize, k: usize) -> Self {
        let norms = bounded_norms(part.values, dim);
        let n_groups = k.saturating_mul(GROUPS_PER_WANTED).max(MIN_GROUPS).min(norms.len());
        let mut norms_of_groups = vec![0.0_f32; n_groups];
        for norms in norms.chunks(n_groups) {
            for (largest, norm) in norms_of_groups.iter_mut().zip(norms) {
                *largest = largest.max(*norm);
            }
        }
        Block { part, norms, norms_of_groups }
    }

    /// The best of a query, out of what is known of its scores; their errors are `slack` times the norm.
    fn best(&self, mut best: Best<'_>, groups: &[GroupBest], slack: f32) -> Vec<Hit> {
        let floor = best.floor;
        let of_groups = groups.iter().map(|group| {
            let error = slack * self.norms[group.row as usize];
            Candidate { row: group.row, score: group.best, error }
        });
        best.pending.extend(of_groups.filter(|best| reaches(floor, best.score, best.error)));
        best.settle();
        let floor = best.floor;
        for (i, (group, norm)) in groups.iter().zip(&self.norms_of_groups).enumerate() {
            let error = slack * norm;
            if reaches(floor, group.second, error) {
                let others = (i..self.norms.len()).step_by(groups.len()).map(|row| row as u32);
                let others = others.filter(|&row| row != group.row);
                best.pending.extend(others.map(|row| Candidate { row, score: group.second, error }));
            }
        }
        best.into_sorted()
    }
}

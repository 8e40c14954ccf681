//! First pass by products of bytes: fast, with an error of about a hundredth of the norms.
//!
//! A query needs a floor that few candidates reach, before the pool is passed. It is guessed: where `m` of the best `k` are
//! expected in a sample of the pool, the score of a rank well below `m` in the sample is exceeded by `k` candidates of the pool. The exact scores tell
//! afterwards whether the guess was right. Of a later part of a pool, the worst of the best `k` so far may be a higher floor, and needs no
//! guess. A query whose guess was wrong, or that too many candidates reach, is left for the next pass.

use embertune_kernels::cpu::scan::{Candidates, Centre, MAX_DIM, MultiplyBytes, Queries, scores, survivors};
use rayon::prelude::*;

use super::best::{Best, Candidate, floor};
use super::exact::{Hit, Part, Wanted};
use crate::progress::Progress;

/// Queries per task at most: their codes, 100 KB at a width of 384, stay in the second-level cache while the pool passes by.
const MAX_QUERIES: usize = 252;
/// A task's queries are a multiple of what the kernel computes at once.
const QUERIES_STEP: usize = 12;
/// Tasks per thread where there are enough queries, so that the last ones end together.
const TASKS_PER_THREAD: usize = 4;
/// Fewer queries are not worth coding the pool, which costs as much as the products of about ten queries.
const MIN_QUERIES: usize = 48;
/// Candidates in the sample that the floors are guessed from: a 32nd of the pool, which costs 3 % of the time, within these.
const SAMPLE: std::ops::RangeInclusive<usize> = 1024..=16_384;

/// Finds the best of the queries that it can, those of the parts before among them, and tells `progress` of them.
pub(super) fn search(
    how: MultiplyBytes,
    wanted: Wanted<'_>,
    part: Part<'_>,
    found: &mut [Option<Vec<Hit>>],
    progress: &dyn Progress,
) {
    let Wanted { queries, k, .. } = wanted;
    let (n, dim) = (part.n_rows(queries.dim), queries.dim);
    if queries.n_rows() < MIN_QUERIES || n < 4 * SAMPLE.start() || k == 0 || k > n / 16 || dim > MAX_DIM {
        return;
    }
    let step = n / (n / 32).clamp(*SAMPLE.start(), *SAMPLE.end());
    let centre = Centre::of(part.values, dim, step);
    let search = Search {
        how,
        wanted,
        part,
        sample: Candidates::new(part.values, &centre, step),
        candidates: Candidates::new(part.values, &centre, 1),
        centre,
    };
    let n_tasks = TASKS_PER_THREAD * rayon::current_num_threads();
    let per_task = queries.n_rows().div_ceil(n_tasks).next_multiple_of(QUERIES_STEP).min(MAX_QUERIES);
    found.par_chunks_mut(per_task).enumerate().for_each(|(task, found)| {
        search.block(task * per_task, found);
        progress.advance(found.iter().flatten().count() as u64);
    });
}

struct Search<'a> {
    how: MultiplyBytes,
    wanted: Wanted<'a>,
    part: Part<'a>,
    centre: Centre,
    candidates: Candidates,
    /// Some of the candidates.
    sample: Candidates,
}

impl Search<'_> {
    /// Queries from `first` on, one per element of `found`.
    fn block(&self, first: usize, found: &mut [Option<Vec<Hit>>]) {
        let (n, Wanted { queries: all, k, so_far }) = (found.len(), self.wanted);
        let queries = Queries::new((first..first + n).map(|query| all.row(query)), &self.centre);
        let so_far = &so_far[first..first + n];
        let mut floors = self.guess_floors(&queries);
        for (floor, hits) in floors.iter_mut().zip(so_far) {
            *floor = floor.max(self::floor(hits, k));
        }
        // Vectors of 384 random elements need 3 to 6 times `k`, others fewer; one that needs more is cheaper to do in f32 than to score exactly.
        let limit = 16 * k + 2048;
        let mut survived: Vec<Vec<(u32, f32)>> = vec![Vec::new(); n];
        survivors(self.how, &queries, &floors, &self.candidates, |query, row, score| {
            // One more than the limit tells that there were too many.
            if survived[query].len() <= limit {
                survived[query].push((row, score));
            }
        });
        for (query, (found, survived)) in found.iter_mut().zip(survived).enumerate() {
            if so_far[query].len() + survived.len() < k || survived.len() > limit {
                continue;
            }
            let mut best = Best::new(all.row(first + query), self.part, k, so_far[query].clone());
            best.pending.extend(survived.into_iter().map(|(row, score)| {
                let error = self.candidates.error(&queries, query, row);
                Candidate { row, score, error }
            }));
            best.settle();
            // All others are below the guess.
            if best.floor >= floors[query] {
                *found = Some(best.into_sorted());
            }
        }
    }

    /// A score per query that at least `k` candidates reach, nearly always.
    fn guess_floors(&self, queries: &Queries) -> Vec<f32> {
        let n_sample = self.sample.n_rows();
        let mut all = vec![0.0; queries.n_rows() * n_sample];
        scores(self.how, &mut all, queries, &self.sample);
        // Three standard deviations of a count whose mean is `expected`.
        let expected = self.wanted.k as f32 * n_sample as f32 / self.candidates.n_rows() as f32;
        let rank = (expected + 3.0 * expected.sqrt() + 2.0).ceil() as usize;
        all.chunks_exact_mut(n_sample)
            .map(|scores| *scores.select_nth_unstable_by(rank.min(n_sample - 1), |a, b| b.total_cmp(a)).1)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use embertune_kernels::testing::seeded;

    use super::*;
    use crate::embed::Vectors;
    use crate::progress::Silent;

    /// How many of 60 queries the bytes are enough for.
    fn n_found(queries: Vec<f32>, pool: Vec<f32>) -> usize {
        let mut found = vec![None; 60];
        let [queries, pool] = [queries, pool].map(|values| Vectors::new(values, 32));
        let so_far = vec![Vec::new(); 60];
        let part = Part { first_row: 0, values: &pool.values };
        let wanted = Wanted { queries: &queries, k: 20, so_far: &so_far };
        search(MultiplyBytes::emulated(), wanted, part, &mut found, &Silent);
        found.into_iter().flatten().count()
    }

    #[test]
    fn bytes_are_enough_for_nearly_all_queries_even_where_vectors_lean_the_same_way() {
        let (queries, pool) = (seeded(60 * 32, 1), seeded(5000 * 32, 2));
        let lean = |x: &[f32]| x.iter().map(|x| 10.0 + x).collect::<Vec<f32>>();
        assert!(n_found(lean(&queries), lean(&pool)) >= 57);
        assert!(n_found(queries, pool) >= 57);
    }

    #[test]
    fn queries_that_too_many_candidates_reach_are_left_for_the_next_pass() {
        assert_eq!(n_found(seeded(60 * 32, 1), vec![0.5; 5000 * 32]), 0);
    }
}

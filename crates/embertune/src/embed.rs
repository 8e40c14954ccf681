//! Texts to vectors, many at once: sorted by length, in chunks of bounded size, equal texts once.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};

use embertune_kernels::Ops;
use rayon::prelude::*;

use crate::comm::{Alone, Communicator, all_or_none};
use crate::error::{Error, Result};
use crate::model::EmbeddingModel;
use crate::progress::Progress;
use crate::text::{Batch, Role, Tokens};

mod among;
pub mod cache;
pub mod files;
pub mod stored;

/// Vectors, one per text, `[n_rows, dim]` row-major.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Vectors {
    /// All values.
    pub values: Vec<f32>,
    /// Width of a vector.
    pub dim: usize,
    /// How many of the texts were longer than the model reads, so that their ends are not in their vectors.
    pub n_truncated: usize,
}

impl Vectors {
    /// Vectors of texts that were not truncated.
    ///
    /// # Panics
    /// Where `values` is no whole number of rows.
    pub fn new(values: Vec<f32>, dim: usize) -> Vectors {
        assert!(dim > 0 && values.len().is_multiple_of(dim), "{} values in rows of {dim}", values.len());
        Vectors { values, dim, n_truncated: 0 }
    }

    /// Number of vectors.
    pub fn n_rows(&self) -> usize {
        self.values.len() / self.dim.max(1)
    }

    /// One vector.
    pub fn row(&self, row: usize) -> &[f32] {
        &self.values[row * self.dim..][..self.dim]
    }

    /// A copy of some of the vectors.
    pub fn part(&self, rows: Range<usize>) -> Vectors {
        let values = self.values[rows.start * self.dim..rows.end * self.dim].to_vec();
        Vectors { values, dim: self.dim, n_truncated: 0 }
    }
}

/// The vectors of `texts`, in their order, with the prompt of `role`, of at most `max_len` tokens (default: the model's
/// maximum). A chunk of `batch_size` texts at most goes through the model at once, on several threads as many chunks; only the last bits of the result depend on it. Reports
/// progress in texts, and notes how many of them are too long.
///
/// # Errors
/// Where the texts can't be tokenized, or the model gives a value that is no finite number; where `progress` wants the work to end.
pub fn embed<O: Ops>(
    model: &EmbeddingModel<O>,
    texts: &[&str],
    role: Role,
    max_len: Option<usize>,
    batch_size: usize,
    progress: &dyn Progress,
) -> Result<Vectors> {
    let job = Job { role, max_len, batch_size, ranks: &Alone };
    job.embed(model, texts, progress)
}

/// How texts are embedded.
#[derive(Clone, Copy)]
struct Job<'a> {
    role: Role,
    max_len: Option<usize>,
    batch_size: usize,
    /// Who embeds them, together.
    ranks: &'a dyn Communicator,
}

impl Job<'_> {
    fn embed<O: Ops>(self, model: &EmbeddingModel<O>, texts: &[&str], progress: &dyn Progress) -> Result<Vectors> {
        among::check_alike(model, texts, self.batch_size, self.ranks)?;
        progress.start(&format!("embedding {}", plural(self.role)), texts.len() as u64);
        let (values, is_cut) = self.compute(model, texts, progress)?;
        progress.finish();
        let n_truncated = is_cut.iter().filter(|is_cut| **is_cut).count();
        let vectors = Vectors { values, dim: model.dim(), n_truncated };
        note_truncated(model, &vectors, self.role, self.max_len, progress);
        Ok(vectors)
    }

    /// The vectors of `texts` one after another, and of each text whether it was longer than the model reads. Reports progress in texts,
    /// as if all ranks were as fast as this one.
    fn compute<O: Ops>(
        self,
        model: &EmbeddingModel<O>,
        texts: &[&str],
        progress: &dyn Progress,
    ) -> Result<(Vec<f32>, Vec<bool>)> {
        let ranks = self.ranks;
        let tokens = all_or_none(ranks, model.tokenize(texts, self.role, self.max_len))?;
        let groups = group_equal(&tokens);
        let most_tokens = model.ops().chunks().tokens;
        let chunks: Vec<_> = chunks(&tokens, &groups, self.batch_size.max(1), most_tokens).collect();
        // In turns: they are sorted by length, so that all ranks have about as much to do.
        let chunks_of = |rank| chunks.iter().skip(rank).step_by(ranks.size());
        let groups_of = |rank| chunks_of(rank).copied().flatten().map(Vec::as_slice).collect::<Vec<_>>();
        let n_own = groups_of(ranks.rank()).iter().map(|group| group.len()).sum::<usize>();
        let dim = model.dim();
        let mut values = vec![0.0; texts.len() * dim];
        let (mut n_done, mut n_said) = (0, 0);
        let own: Vec<_> = chunks_of(ranks.rank()).copied().collect();
        let take = |chunk: &&[Vec<usize>], vectors: Vec<f32>| {
            for (group, vector) in chunk.iter().zip(vectors.chunks_exact(dim)) {
                for &text in group {
                    values[text * dim..][..dim].copy_from_slice(vector);
                }
                n_done += group.len();
            }
            let n_of_all = n_done * texts.len() / n_own;
            progress.advance((n_of_all - n_said) as u64);
            n_said = n_of_all;
            if progress.is_stop_requested() { Err(Error::Stopped) } else { Ok(()) }
        };
        let done = each_chunk(&own, model.ops().chunks().at_once, |chunk| encode(model, &tokens, chunk), take);
        all_or_none(ranks, done)?;
        if ranks.size() > 1 {
            among::fill_in(&(0..ranks.size()).map(groups_of).collect::<Vec<_>>(), dim, ranks, &mut values)?;
        }
        Ok((values, tokens.iter().map(|tokens| tokens.truncated).collect()))
    }
}

/// The vectors of a chunk, one for each of its groups.
fn encode<O: Ops>(model: &EmbeddingModel<O>, tokens: &[Tokens], chunk: &[Vec<usize>]) -> Result<Vec<f32>> {
    let mut batch = Batch::default();
    for group in chunk {
        let Tokens { ids, prompt_len, .. } = &tokens[group[0]];
        batch.push(ids, *prompt_len, 0);
    }
    let vectors = model.encode(&batch);
    let is_bad = |vector: &[f32]| vector.iter().any(|x| !x.is_finite());
    match chunk.iter().zip(vectors.chunks_exact(model.dim())).find(|(_, vector)| is_bad(vector)) {
        None => Ok(vectors),
        Some((group, _)) => Err(Error::Setting {
            problem: format!("the vector of text {} has values that are no finite numbers", group[0] + 1),
            hint: Some("the model's weights are damaged: embed with the model that it was made from".into()),
        }),
    }
}

fn plural(role: Role) -> &'static str {
    match role {
        Role::Query => "queries",
        Role::Passage => "passages",
    }
}

fn note_truncated<O: Ops>(
    model: &EmbeddingModel<O>,
    vectors: &Vectors,
    role: Role,
    max_len: Option<usize>,
    progress: &dyn Progress,
) {
    let (n, n_texts) = (vectors.n_truncated, vectors.n_rows());
    if n > 0 {
        let limit = model.max_seq_length().min(max_len.unwrap_or(usize::MAX));
        let percent = 100.0 * n as f64 / n_texts as f64;
        progress.note(&format!(
            "{n} of {n_texts} {} ({percent:.1} %) are longer than {limit} tokens and are cut there",
            plural(role)
        ));
    }
}

/// The texts with equal tokens, as lists of indices; the longest texts first, so that memory is at its peak at the start.
fn group_equal(tokens: &[Tokens]) -> Vec<Vec<usize>> {
    let mut group_of: HashMap<(&[u32], u32), usize> = HashMap::new();
    let mut groups: Vec<Vec<usize>> = Vec::new();
    for (i, Tokens { ids, prompt_len, .. }) in tokens.iter().enumerate() {
        let group = *group_of.entry((ids, *prompt_len)).or_insert(groups.len());
        if group == groups.len() {
            groups.push(Vec::new());
        }
        groups[group].push(i);
    }
    groups.sort_by_key(|group| std::cmp::Reverse(tokens[group[0]].ids.len()));
    groups
}

/// Computes every one of `chunks`, `at_once` of them at the same time, and gives what was made to `take`, one after another in no certain order.
///
/// # Errors
/// The first failure of `compute` or `take`; no chunk is begun after it.
pub(crate) fn each_chunk<C: Sync, T>(
    chunks: &[C],
    at_once: usize,
    compute: impl Fn(&C) -> Result<T> + Sync,
    take: impl FnMut(&C, T) -> Result<()> + Send,
) -> Result<()> {
    let rest = Mutex::new(chunks.iter());
    let next = || locked(&rest).next();
    let take = Mutex::new(take);
    (0..at_once).into_par_iter().with_max_len(1).try_for_each(|_| {
        while let Some(chunk) = next() {
            if let Err(error) = compute(chunk).and_then(|made| locked(&take)(chunk, made)) {
                *locked(&rest) = [].iter();
                return Err(error);
            }
        }
        Ok(())
    })
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Cuts the groups into chunks of at most `batch_size` groups and `most_tokens` tokens, but at least one group.
fn chunks<'a>(
    tokens: &'a [Tokens],
    groups: &'a [Vec<usize>],
    batch_size: usize,
    most_tokens: usize,
) -> impl Iterator<Item = &'a [Vec<usize>]> {
    let mut rest = groups;
    std::iter::from_fn(move || {
        // The first text is the longest of its chunk.
        let longest = tokens[rest.first()?[0]].ids.len();
        let n = batch_size.min(most_tokens / longest).clamp(1, rest.len());
        let (chunk, after) = rest.split_at(n);
        rest = after;
        Some(chunk)
    })
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
    use std::time::Duration;

    use super::*;

    fn tokens(ids: &[u32]) -> Tokens {
        Tokens { ids: ids.to_vec(), prompt_len: 0, truncated: false }
    }

    #[test]
    fn equal_texts_form_one_group_and_longer_groups_come_first() {
        let all = [&[1, 2][..], &[1, 2, 3], &[1, 2], &[9]].map(tokens);
        assert_eq!(group_equal(&all), [vec![1], vec![0, 2], vec![3]]);
    }

    #[test]
    fn each_chunk_is_taken_once_and_none_is_begun_after_a_failure() {
        let numbers: Vec<usize> = (0..100).collect();
        for at_once in [1, 4] {
            let mut taken = Vec::new();
            let take = |&number: &usize, square: usize| {
                taken.push((number, square));
                Ok(())
            };
            each_chunk(&numbers, at_once, |n| Ok(n * n), take).unwrap();
            taken.sort_unstable();
            assert_eq!(taken, numbers.iter().map(|&n| (n, n * n)).collect::<Vec<_>>());

            // The others wait for the failure, and take long after it.
            let (n_begun, has_failed) = (AtomicUsize::new(0), AtomicBool::new(false));
            let compute = |&number: &usize| {
                n_begun.fetch_add(1, Ordering::Relaxed);
                if number == 3 {
                    has_failed.store(true, Ordering::Relaxed);
                    return Err(Error::Stopped);
                }
                while number > 3 && !has_failed.load(Ordering::Relaxed) {
                    std::thread::yield_now();
                }
                std::thread::sleep(Duration::from_millis(10));
                Ok(())
            };
            assert!(matches!(each_chunk(&numbers, at_once, compute, |_, ()| Ok(())), Err(Error::Stopped)));
            assert!((4..100).contains(&n_begun.into_inner()));
        }
    }

    #[test]
    fn chunks_hold_every_group_once_within_both_bounds() {
        const MOST: usize = 1024;
        let lengths = [2 * MOST, MOST, MOST / 2 + 1, MOST / 2, MOST / 2, MOST / 3 + 1, 10, 10, 10, 1];
        let all = lengths.map(|n| tokens(&vec![7; n]));
        let groups: Vec<_> = (0..lengths.len()).map(|i| vec![i]).collect();
        let cut: Vec<Vec<usize>> =
            chunks(&all, &groups, 3, MOST).map(|chunk| chunk.iter().map(|g| g[0]).collect()).collect();
        assert_eq!(cut, [vec![0], vec![1], vec![2], vec![3, 4], vec![5, 6], vec![7, 8, 9]]);
        assert_eq!(chunks(&all, &[], 3, MOST).count(), 0);
    }
}

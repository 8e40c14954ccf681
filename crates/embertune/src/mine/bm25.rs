//! Ranking by words: Okapi BM25 over an inverted index.
//!
//! Of our own: crates cost more than they spare (docs/LOG.md). Formula and idf are Lucene's: sum over the query's words of
//! `ln(1 + (n - df + 0.5) / (df + 0.5)) * tf / (tf + k1 * (1 - b + b * length / mean length))`, without the constant factor `k1 + 1`.

use std::collections::HashMap;
use std::ops::Range;

use rayon::prelude::*;

use super::words::words;
use crate::progress::Progress;
use crate::search::Hit;

/// How soon more of the same word stops to matter; Lucene's default.
const K1: f32 = 1.2;
/// How much long texts are held back; Lucene's default.
const B: f32 = 0.75;

/// Texts that [`top_k_in_parts`] indexes at once.
const PART: usize = 1 << 15;

/// An index of a pool's words.
pub struct Bm25 {
    n_texts: usize,
    mean_length: f32,
    terms: HashMap<u64, Term>,
}

#[derive(Default)]
struct Term {
    idf: f32,
    /// Rows of the pool with the word, ascending, and the saturated frequency of the word in them.
    postings: Vec<(u32, f32)>,
}

impl Bm25 {
    /// Indexes `texts`; a row is an index into them.
    pub fn new<S: AsRef<str> + Sync>(texts: &[S]) -> Bm25 {
        let texts: Vec<_> = texts.par_iter().map(|text| words(text.as_ref())).collect();
        let n_words: usize = texts.iter().map(Vec::len).sum();
        let mut index = Bm25 {
            n_texts: texts.len(),
            mean_length: n_words as f32 / texts.len().max(1) as f32,
            terms: HashMap::new(),
        };
        for (row, words) in texts.into_iter().enumerate() {
            let length = words.len();
            for (word, frequency) in counted(words) {
                let weight = index.weight(frequency, length);
                index.terms.entry(word).or_default().postings.push((row as u32, weight));
            }
        }
        for term in index.terms.values_mut() {
            term.idf = idf(term.postings.len(), index.n_texts);
        }
        index
    }

    fn weight(&self, frequency: usize, length: usize) -> f32 {
        let frequency = frequency as f32;
        frequency / (frequency + K1 * (1.0 - B + B * length as f32 / self.mean_length))
    }

    /// The `k` best texts for each query, best first, then by row. Texts without a word of the query are never among them. Runs in the
    /// current rayon pool; the result does not depend on its size. Reports progress in queries.
    pub fn top_k(&self, queries: &[&str], k: usize, progress: &dyn Progress) -> Vec<Vec<Hit>> {
        progress.start("ranking by words", queries.len() as u64);
        let found = queries
            .par_iter()
            .map_init(
                || vec![0.0; self.n_texts],
                |scores, query| {
                    let hits = self.best(query, k, scores);
                    progress.advance(1);
                    hits
                },
            )
            .collect();
        progress.finish();
        found
    }

    /// `scores` is all zeros before and after.
    fn best(&self, query: &str, k: usize, scores: &mut [f32]) -> Vec<Hit> {
        let mut rows = Vec::new();
        for (term, count) in self.terms_of(query) {
            for &(row, weight) in &term.postings {
                let score = &mut scores[row as usize];
                if *score == 0.0 {
                    rows.push(row);
                }
                *score += count * term.idf * weight;
            }
        }
        let mut hits: Vec<_> =
            rows.into_iter().map(|row| Hit { row, score: std::mem::take(&mut scores[row as usize]) }).collect();
        keep_best(&mut hits, k);
        hits
    }

    /// The score of any text, in the pool or not.
    pub fn score(&self, query: &str, text: &str) -> f32 {
        let words = words(text);
        let length = words.len();
        let frequencies: HashMap<u64, usize> = counted(words).into_iter().collect();
        let in_text = |word: u64| frequencies.get(&word).map_or(0.0, |&frequency| self.weight(frequency, length));
        counted(self::words(query))
            .into_iter()
            .filter_map(|(word, count)| Some(count as f32 * self.terms.get(&word)?.idf * in_text(word)))
            .sum()
    }

    /// The query's words that the pool has, each once, in an order that the words alone decide.
    fn terms_of(&self, query: &str) -> impl Iterator<Item = (&Term, f32)> {
        counted(words(query)).into_iter().filter_map(|(word, count)| Some((self.terms.get(&word)?, count as f32)))
    }
}

/// What an index of `n_texts` texts would find for each query, [`Bm25::top_k`], without holding it: of a part of the texts at a time the
/// words of the queries alone are indexed. All texts are read twice, and looked through for all queries: for few queries in many texts.
pub fn top_k_in_parts(
    n_texts: usize,
    read: impl Fn(Range<usize>) -> Vec<String>,
    queries: &[&str],
    k: usize,
    progress: &dyn Progress,
) -> Vec<Vec<Hit>> {
    progress.start("ranking by words", 2 * n_texts as u64);
    let mut n_with: HashMap<u64, usize> = queries.iter().flat_map(|query| words(query)).map(|word| (word, 0)).collect();
    let parts = || (0..n_texts).step_by(PART).map(|start| start..n_texts.min(start + PART));
    // Of each text its length, and how often it has which words of the queries.
    let looked_at = |part: Range<usize>, wanted: &HashMap<u64, usize>| -> Vec<(usize, Vec<(u64, usize)>)> {
        let of_text = |text: String| {
            let mut words = words(&text);
            let length = words.len();
            words.retain(|word| wanted.contains_key(word));
            (length, counted(words))
        };
        read(part).into_par_iter().map(of_text).collect()
    };
    let mut n_words = 0;
    for part in parts() {
        let texts = looked_at(part, &n_with);
        progress.advance(texts.len() as u64);
        for (length, words) in texts {
            n_words += length;
            words.iter().for_each(|(word, _)| *n_with.entry(*word).or_default() += 1);
        }
    }
    let mean_length = n_words as f32 / n_texts.max(1) as f32;
    let mut found = vec![Vec::new(); queries.len()];
    for part in parts() {
        let texts = looked_at(part.clone(), &n_with);
        progress.advance(texts.len() as u64);
        let mut index = Bm25 { n_texts: texts.len(), mean_length, terms: HashMap::new() };
        for (row, (length, words)) in texts.into_iter().enumerate() {
            for (word, frequency) in words {
                let weight = index.weight(frequency, length);
                index.terms.entry(word).or_default().postings.push((row as u32, weight));
            }
        }
        for (word, term) in &mut index.terms {
            term.idf = idf(n_with[word], n_texts);
        }
        found.par_iter_mut().zip(queries).for_each_init(
            || vec![0.0; index.n_texts],
            |scores, (found, query)| {
                let hits = index.best(query, k, scores).into_iter();
                found.extend(hits.map(|hit| Hit { row: hit.row + part.start as u32, ..hit }));
                keep_best(found, k);
            },
        );
    }
    progress.finish();
    found
}

/// How much a word that `n_with` of `n_texts` texts have tells.
fn idf(n_with: usize, n_texts: usize) -> f32 {
    (1.0 + (n_texts as f32 - n_with as f32 + 0.5) / (n_with as f32 + 0.5)).ln()
}

/// The `k` best, best first, then by row.
fn keep_best(hits: &mut Vec<Hit>, k: usize) {
    let order = |a: &Hit, b: &Hit| b.score.total_cmp(&a.score).then(a.row.cmp(&b.row));
    if k < hits.len() {
        hits.select_nth_unstable_by(k, order);
        hits.truncate(k);
        // A common word makes a candidate of every text of the pool, and all queries' lists are kept.
        hits.shrink_to_fit();
    }
    hits.sort_unstable_by(order);
}

/// Each word once, ascending, with how often it is there.
fn counted(mut words: Vec<u64>) -> Vec<(u64, usize)> {
    words.sort_unstable();
    words.chunk_by(|a, b| a == b).map(|equal| (equal[0], equal.len())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::Silent;

    fn texts() -> Vec<String> {
        ["the cat sat", "the dog sat on the mat", "Cat, cat: CAT!", "nothing here", "the cat sat"]
            .map(String::from)
            .into()
    }

    /// By hand: 5 texts of 17 words, `cat` in three of them, `mat` in one.
    #[test]
    fn scores_are_the_formula() {
        let index = Bm25::new(&texts());
        let (idf_cat, idf_mat) = ((1.0_f32 + 2.5 / 3.5).ln(), (1.0_f32 + 4.5 / 1.5).ln());
        let long = |length: f32| 1.2 * (0.25 + 0.75 * length / 3.4);
        for (query, text, expected) in [
            ("cat", "the cat sat", idf_cat / (1.0 + long(3.0))),
            ("cat", "cat cat cat", idf_cat * 3.0 / (3.0 + long(3.0))),
            ("cat cat unknown", "the cat sat", 2.0 * idf_cat / (1.0 + long(3.0))),
            ("cat mat", "the dog sat on the mat", idf_mat / (1.0 + long(6.0))),
            ("cat", "nothing here", 0.0),
        ] {
            let score = index.score(query, text);
            assert!((score - expected).abs() < 1e-6, "{query}: {text}: {score}, not {expected}");
        }
    }

    #[test]
    fn the_ranking_is_by_score_then_row_without_texts_that_share_no_word() {
        let texts = texts();
        let index = Bm25::new(&texts);
        let queries = ["cat", "sat mat", "unknown", "the"];
        let found = index.top_k(&queries, 10, &Silent);
        let rows = |i: usize| found[i].iter().map(|hit| hit.row).collect::<Vec<_>>();
        assert_eq!([rows(0), rows(1), rows(2)], [vec![2, 0, 4], vec![1, 0, 4], vec![]]);
        for (query, hits) in queries.iter().zip(&found) {
            for hit in hits {
                assert!((hit.score - index.score(query, &texts[hit.row as usize])).abs() < 1e-6);
            }
        }
        let fewer = index.top_k(&queries, 2, &Silent);
        assert!(fewer.iter().zip(&found).all(|(few, all)| few[..] == all[..all.len().min(2)]));
    }

    #[test]
    fn parts_give_what_an_index_of_all_texts_gives_to_the_last_bit() {
        let word = |i: usize| ["the", "cat", "sat", "on", "a", "mat", "dog"][i * i / 3 % 7];
        let text =
            |i: usize| (0..1 + i % 5).map(|at| word(i + at)).chain([["x", "y"][i % 2]]).collect::<Vec<_>>().join(" ");
        let texts: Vec<_> = (0..2 * PART + 700).map(text).collect();
        let queries = ["the cat", "mat mat dog x", "unknown", "", "y"];
        for k in [1, 50, 3 * PART] {
            let found = top_k_in_parts(texts.len(), |part| texts[part].to_vec(), &queries, k, &Silent);
            assert!(found == Bm25::new(&texts).top_k(&queries, k, &Silent), "{k}");
        }
    }

    #[test]
    fn a_list_takes_the_memory_of_its_hits_not_of_all_texts_with_a_common_word() {
        let texts: Vec<_> = (0..10_000).map(|i| format!("the text {i}")).collect();
        let found = Bm25::new(&texts).top_k(&["the text 7", "the"], 5, &Silent);
        assert!(found.iter().all(|hits| hits.len() == 5 && hits.capacity() < 100));
    }
}

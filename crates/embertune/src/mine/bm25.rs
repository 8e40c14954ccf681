//! Ranking by words: Okapi BM25 over an inverted index of a part of the texts at a time.
//!
//! Of our own: crates cost more than they spare (docs/LOG.md). Formula and idf are Lucene's: sum over the query's words of
//! `ln(1 + (n - df + 0.5) / (df + 0.5)) * tf / (tf + k1 * (1 - b + b * length / mean length))`, without the constant factor `k1 + 1`.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::ops::Range;

use rayon::prelude::*;

use super::words::words;
use crate::error::Result;
use crate::progress::Progress;
use crate::search::Hit;

/// How soon more of the same word stops to matter; Lucene's default.
const K1: f32 = 1.2;
/// How much long texts are held back; Lucene's default.
const B: f32 = 0.75;

/// Texts that are indexed at once.
const PART: usize = 1 << 15;

/// Reads some of the texts that are ranked.
pub type Read<'a> = Box<dyn Fn(Range<usize>) -> Result<Vec<String>> + Send + Sync + 'a>;

/// Ranks texts by the words of given queries. Of the texts there is no more in memory than of a part of them, [`Read`] anew for each search.
pub struct Bm25<'a> {
    n_texts: usize,
    read: Read<'a>,
    mean_length: f32,
    /// Of each word of the queries, how many texts have it.
    n_with: HashMap<u64, u32>,
}

/// The length of a text, and how often it has which words of the queries.
type Looked = (usize, Vec<(u64, usize)>);

/// An index of some texts.
#[derive(Default)]
struct Index {
    n_texts: usize,
    terms: HashMap<u64, Term>,
}

#[derive(Default)]
struct Term {
    idf: f32,
    /// Rows of the part with the word, ascending, and the saturated frequency of the word in them.
    postings: Vec<(u32, f32)>,
}

impl<'a> Bm25<'a> {
    /// Counts the words of `queries` in `n_texts` texts.
    ///
    /// # Errors
    /// Those of `read`, and of the queries.
    pub fn new<S: AsRef<str>>(
        n_texts: usize,
        read: Read<'a>,
        queries: impl IntoIterator<Item = Result<S>>,
        progress: &dyn Progress,
    ) -> Result<Bm25<'a>> {
        let mut n_with = HashMap::new();
        for query in queries {
            n_with.extend(words(query?.as_ref()).into_iter().map(|word| (word, 0)));
        }
        let mut bm25 = Bm25 { n_texts, read, mean_length: 0.0, n_with };
        let mut n_words = 0;
        progress.start("counting words", n_texts as u64);
        for part in bm25.parts() {
            let texts = bm25.look_at(part)?;
            progress.advance(texts.len() as u64);
            for (length, words) in texts {
                n_words += length;
                words.iter().for_each(|(word, _)| *bm25.n_with.entry(*word).or_default() += 1);
            }
        }
        progress.finish();
        bm25.mean_length = n_words as f32 / n_texts.max(1) as f32;
        Ok(bm25)
    }

    fn parts(&self) -> impl Iterator<Item = Range<usize>> + use<> {
        let n = self.n_texts;
        (0..n).step_by(PART).map(move |start| start..n.min(start + PART))
    }

    fn look_at(&self, part: Range<usize>) -> Result<Vec<Looked>> {
        let of_text = |text: String| {
            let mut words = words(&text);
            let length = words.len();
            words.retain(|word| self.n_with.contains_key(word));
            (length, counted(words))
        };
        Ok((self.read)(part)?.into_par_iter().map(of_text).collect())
    }

    fn weight(&self, frequency: usize, length: usize) -> f32 {
        let frequency = frequency as f32;
        frequency / (frequency + K1 * (1.0 - B + B * length as f32 / self.mean_length))
    }

    /// How much a word tells; `None` where no text has it.
    fn idf(&self, word: u64) -> Option<f32> {
        let n_with = *self.n_with.get(&word).filter(|n_with| **n_with > 0)? as f32;
        Some((1.0 + (self.n_texts as f32 - n_with + 0.5) / (n_with + 0.5)).ln())
    }

    fn index(&self, part: Range<usize>) -> Result<Index> {
        let mut index = Index { n_texts: part.len(), terms: HashMap::new() };
        for (row, (length, words)) in self.look_at(part)?.into_iter().enumerate() {
            for (word, frequency) in words {
                let weight = self.weight(frequency, length);
                index.terms.entry(word).or_default().postings.push((row as u32, weight));
            }
        }
        for (&word, term) in &mut index.terms {
            term.idf = self.idf(word).unwrap_or_default();
        }
        Ok(index)
    }

    /// The `k` best texts for each of some of the queries, best first, then by row. Texts without a word of the query are never among them.
    /// Runs in the current rayon pool; the result does not depend on its size. Reports progress in texts.
    ///
    /// # Errors
    /// Where the texts can't be read.
    pub fn top_k<S: AsRef<str> + Sync>(
        &self,
        queries: &[S],
        k: usize,
        progress: &dyn Progress,
    ) -> Result<Vec<Vec<Hit>>> {
        progress.start("ranking by words", self.n_texts as u64);
        let mut found = vec![Vec::new(); queries.len()];
        for part in self.parts() {
            let index = self.index(part.clone())?;
            found.par_iter_mut().zip(queries).for_each_init(
                || vec![0.0; index.n_texts],
                |scores, (found, query)| index.add_best(query.as_ref(), k, part.start as u32, scores, found),
            );
            progress.advance(part.len() as u64);
        }
        found.par_iter_mut().for_each(|hits| hits.sort_unstable_by(order));
        progress.finish();
        Ok(found)
    }

    /// The score of any text, in the pool or not, for one of the queries.
    pub fn score(&self, query: &str, text: &str) -> f32 {
        let words = words(text);
        let length = words.len();
        let frequencies: HashMap<u64, usize> = counted(words).into_iter().collect();
        let in_text = |word: u64| frequencies.get(&word).map_or(0.0, |&frequency| self.weight(frequency, length));
        counted(self::words(query))
            .into_iter()
            .filter_map(|(word, count)| Some(count as f32 * self.idf(word)? * in_text(word)))
            .sum()
    }
}

impl Index {
    /// Leaves the `k` best of `found` and of the texts of the part, in any order. `scores` is all zeros before and after.
    fn add_best(&self, query: &str, k: usize, first_row: u32, scores: &mut [f32], found: &mut Vec<Hit>) {
        let mut rows = Vec::new();
        // In an order that the words alone decide.
        for (word, count) in counted(words(query)) {
            let Some(term) = self.terms.get(&word) else { continue };
            for &(row, weight) in &term.postings {
                let score = &mut scores[row as usize];
                if *score == 0.0 {
                    rows.push(row);
                }
                *score += count as f32 * term.idf * weight;
            }
        }
        let hit = |row: u32| Hit { row: first_row + row, score: std::mem::take(&mut scores[row as usize]) };
        found.extend(rows.into_iter().map(hit));
        if k < found.len() {
            found.select_nth_unstable_by(k, order);
            found.truncate(k);
            // A common word makes a candidate of every text of the part, and all queries' lists are kept.
            found.shrink_to_fit();
        }
    }
}

/// Best first, then by row.
fn order(a: &Hit, b: &Hit) -> Ordering {
    b.score.total_cmp(&a.score).then(a.row.cmp(&b.row))
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

    fn bm25<'a>(texts: &'a [String], queries: &[&str]) -> Bm25<'a> {
        Bm25::new(texts.len(), Box::new(|part| Ok(texts[part].to_vec())), queries.iter().map(Ok), &Silent).unwrap()
    }

    /// By hand: 5 texts of 17 words, `cat` in three of them, `mat` in one.
    #[test]
    fn scores_are_the_formula() {
        let (idf_cat, idf_mat) = ((1.0_f32 + 2.5 / 3.5).ln(), (1.0_f32 + 4.5 / 1.5).ln());
        let long = |length: f32| 1.2 * (0.25 + 0.75 * length / 3.4);
        for (query, text, expected) in [
            ("cat", "the cat sat", idf_cat / (1.0 + long(3.0))),
            ("cat", "cat cat cat", idf_cat * 3.0 / (3.0 + long(3.0))),
            ("cat cat unknown", "the unknown cat", 2.0 * idf_cat / (1.0 + long(3.0))),
            ("cat mat", "the dog sat on the mat", idf_mat / (1.0 + long(6.0))),
            ("cat", "nothing here", 0.0),
        ] {
            let score = bm25(&texts(), &[query]).score(query, text);
            assert!((score - expected).abs() < 1e-6, "{query}: {text}: {score}, not {expected}");
        }
    }

    #[test]
    fn the_ranking_is_by_score_then_row_without_texts_that_share_no_word() {
        let texts = texts();
        let queries = ["cat", "sat mat", "unknown", "the"];
        let bm25 = bm25(&texts, &queries);
        let found = bm25.top_k(&queries, 10, &Silent).unwrap();
        let rows = |i: usize| found[i].iter().map(|hit| hit.row).collect::<Vec<_>>();
        assert_eq!([rows(0), rows(1), rows(2)], [vec![2, 0, 4], vec![1, 0, 4], vec![]]);
        for (query, hits) in queries.iter().zip(&found) {
            for hit in hits {
                assert!((hit.score - bm25.score(query, &texts[hit.row as usize])).abs() < 1e-6);
            }
        }
        let fewer = bm25.top_k(&queries, 2, &Silent).unwrap();
        assert!(fewer.iter().zip(&found).all(|(few, all)| few[..] == all[..all.len().min(2)]));
    }

    #[test]
    fn the_best_of_several_parts_are_those_of_all_texts_by_their_scores() {
        let word = |i: usize| ["the", "cat", "sat", "on", "a", "mat", "dog"][i * i / 3 % 7];
        let text =
            |i: usize| (0..1 + i % 5).map(|at| word(i + at)).chain([["x", "y"][i % 2]]).collect::<Vec<_>>().join(" ");
        let texts: Vec<_> = (0..2 * PART + 700).map(text).collect();
        let queries = ["the cat", "mat mat dog x", "unknown", "", "y"];
        let bm25 = bm25(&texts, &queries);
        for k in [1, 50, 3 * PART] {
            for (query, found) in queries.iter().zip(bm25.top_k(&queries, k, &Silent).unwrap()) {
                let score = |row: usize| Hit { row: row as u32, score: bm25.score(query, &texts[row]) };
                let mut all: Vec<_> = (0..texts.len()).map(score).filter(|hit| hit.score > 0.0).collect();
                all.sort_unstable_by(order);
                all.truncate(k);
                assert!(found == all, "{query}, {k}");
            }
        }
    }

    #[test]
    fn a_list_takes_the_memory_of_its_hits_not_of_all_texts_with_a_common_word() {
        let texts: Vec<_> = (0..10_000).map(|i| format!("the text {i}")).collect();
        let queries = ["the text 7", "the"];
        let found = bm25(&texts, &queries).top_k(&queries, 5, &Silent).unwrap();
        assert!(found.iter().all(|hits| hits.len() == 5 && hits.capacity() < 100));
    }
}

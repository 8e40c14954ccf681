//! The texts of an audit by number, and which of them are the same, or nearly. The texts themselves are in a temporary file where they are
//! many.
//!
//! Three degrees: equal ([`TextId::of`], one number), equal but for case and punctuation at the ends of words ([`TextId::near`], what
//! training masks by: [`Texts::said`]), and nearly the same words ([`Near`]).

use std::borrow::Cow;
use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use rayon::prelude::*;

use crate::data::near::{TextList, near_groups};
use crate::data::row_list::{Distinct, Row, RowList};
use crate::data::stored::StoredTexts;
use crate::data::{Example, RowsOf, Scores, TextId};
use crate::error::{Error, Result};
use crate::mine::overlap::Bag;

/// With how many texts of a group another is compared: keeps time linear where thousands of texts follow one pattern.
const HEADS: usize = 64;
/// Rows, or texts, that are looked at together.
pub const BLOCK: usize = 4096;

/// Texts that are being collected.
#[derive(Default)]
pub struct NewTexts {
    texts: StoredTexts,
    numbers: Distinct,
    said: Vec<u64>,
}

impl NewTexts {
    /// The numbers of the texts, new ones for those that are new.
    ///
    /// # Errors
    /// Where the temporary file can't be written.
    pub fn add(&mut self, texts: &[&str]) -> Result<Vec<u32>> {
        let ids: Vec<_> = texts.par_iter().map(|text| (TextId::of(text).half(), TextId::near(text).half())).collect();
        let mut numbers = Vec::with_capacity(texts.len());
        for (text, (id, said)) in texts.iter().zip(ids) {
            let (number, is_new) = self.numbers.number(id);
            if is_new {
                self.texts.push(text)?;
                self.said.push(said);
            }
            numbers.push(number);
        }
        Ok(numbers)
    }

    /// The rows by the numbers of their texts, with the scores of pairs.
    ///
    /// # Errors
    /// Where a temporary file can't be read or written.
    pub fn add_rows(&mut self, examples: &dyn RowsOf<Example>) -> Result<RowList> {
        let mut rows = RowList::default();
        let mut from = examples.rows();
        loop {
            let block = from.by_ref().take(BLOCK).collect::<Result<Vec<_>>>()?;
            if block.is_empty() {
                return Ok(rows);
            }
            let of_row = |example: &'_ Cow<'_, Example>| 1 + example.positives.len() + example.negatives.len();
            let texts: Vec<&str> = block
                .iter()
                .flat_map(|example| {
                    [&example.query].into_iter().chain(&example.positives).chain(&example.negatives).map(String::as_str)
                })
                .collect();
            let numbers = self.add(&texts)?;
            let mut rest = numbers.as_slice();
            for example in &block {
                let (of_row, others) = rest.split_at(of_row(example));
                let (positives, negatives) = of_row[1..].split_at(example.positives.len());
                let score = if let Scores::Pair(score) = example.scores { Some(score) } else { None };
                rows.push(Row {
                    query: of_row[0],
                    positives,
                    negatives,
                    positive_scores: score.as_slice(),
                    negative_scores: &[],
                    line: example.line,
                });
                rest = others;
            }
        }
    }

    /// All of them.
    pub fn done(self) -> Texts {
        let NewTexts { texts, said, .. } = self;
        let mut order: Vec<u32> = (0..said.len() as u32).collect();
        order.par_sort_unstable_by_key(|&number| (said[number as usize], number));
        let mut first = vec![0; said.len()];
        for same in order.chunk_by(|&a, &b| said[a as usize] == said[b as usize]) {
            same.iter().for_each(|&number| first[number as usize] = same[0]);
        }
        Texts { texts, said: first, failed: Mutex::default() }
    }
}

/// Distinct texts in the order in which they were first seen.
pub struct Texts {
    texts: StoredTexts,
    said: Vec<u32>,
    /// What kept a text from being read.
    failed: Mutex<Option<Error>>,
}

impl Texts {
    /// A text. Where the temporary file can't be read it is empty, and [`check`](Self::check) has the error.
    pub fn text(&self, number: u32) -> String {
        self.read(&[number]).swap_remove(0)
    }

    /// Some texts.
    pub fn read(&self, numbers: &[u32]) -> Vec<String> {
        self.texts.read(numbers.iter().copied()).unwrap_or_else(|error| {
            *self.failed.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
            vec![String::new(); numbers.len()]
        })
    }

    /// Whether all texts were read that were asked for.
    ///
    /// # Errors
    /// What kept one from being read.
    pub fn check(&self) -> Result<()> {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner).take().map_or(Ok(()), Err)
    }

    /// The first text that says the same as this one: equal but for case and punctuation at the ends of words.
    pub fn said(&self, number: u32) -> u32 {
        self.said[number as usize]
    }

    /// The number of texts.
    pub fn len(&self) -> usize {
        self.texts.len()
    }
}

/// Some of the texts as a list.
struct Members<'a> {
    texts: &'a Texts,
    numbers: &'a [u32],
}

impl TextList for Members<'_> {
    fn n_texts(&self) -> usize {
        self.numbers.len()
    }

    fn read(&self, texts: Range<usize>) -> Vec<Cow<'_, str>> {
        self.texts.read(&self.numbers[texts]).into_iter().map(Cow::Owned).collect()
    }
}

/// Each of `numbers` once, in its order, and whether a number is among them.
pub fn distinct(numbers: impl IntoIterator<Item = u32>, n_texts: usize) -> (Vec<u32>, Vec<bool>) {
    let mut is_in = vec![false; n_texts];
    let list = numbers.into_iter().filter(|&number| !std::mem::replace(&mut is_in[number as usize], true)).collect();
    (list, is_in)
}

/// Something by numbers of texts.
pub struct ByText<T>(Vec<Option<T>>);

impl<T: Copy> ByText<T> {
    /// Nothing yet, for so many texts.
    pub fn new(n_texts: usize) -> ByText<T> {
        ByText(vec![None; n_texts])
    }

    /// What there is by a number; where there is nothing yet, `value` from now on.
    pub fn first(&mut self, number: u32, value: T) -> T {
        *self.0[number as usize].get_or_insert(value)
    }

    /// What there is.
    pub fn get(&self, number: u32) -> Option<T> {
        self.0[number as usize]
    }
}

/// Which numbers belong to which others.
pub struct Pairs(Vec<(u32, u32)>);

impl Pairs {
    /// Each pair once.
    pub fn new(pairs: impl IntoIterator<Item = (u32, u32)>) -> Pairs {
        let mut pairs: Vec<_> = pairs.into_iter().collect();
        pairs.par_sort_unstable();
        pairs.dedup();
        Pairs(pairs)
    }

    /// Whether both belong together.
    pub fn has(&self, number: u32, other: u32) -> bool {
        self.0.binary_search(&(number, other)).is_ok()
    }

    /// What belongs to a number, ascending.
    pub fn of(&self, number: u32) -> impl Iterator<Item = u32> {
        let start = self.0.partition_point(|pair| pair.0 < number);
        self.0[start..].iter().take_while(move |pair| pair.0 == number).map(|pair| pair.1)
    }
}

/// Which texts are nearly the same. Groups may be chains: each text is near one of its group, maybe not near all.
pub struct Near {
    /// For each text a number that its group has in common; its own where it was not among the members.
    group: Vec<u32>,
}

impl Near {
    /// Groups `members`, some of `texts`, by their letters ([`near_groups`]): finds rewordings, and texts after one pattern with them.
    pub fn loosely(texts: &Texts, members: &[u32]) -> Near {
        let mut groups = near_groups(&Members { texts, numbers: members });
        let mut first = ByText::new(texts.len());
        for (at, &member) in (0..).zip(members) {
            groups.join(first.first(texts.said(member), at), at);
        }
        Near::of(texts.len(), members, &groups.names())
    }

    /// Splits the groups by their words ([`Bag::is_near`], the rule of mining): what is left in one group says the same.
    pub fn strictly(&self, texts: &Texts, members: &[u32]) -> Near {
        let group = |at: u32| self.group(members[at as usize]);
        let mut order: Vec<u32> = (0..members.len() as u32).collect();
        order.par_sort_unstable_by_key(|&at| (group(at), at));
        let mut names: Vec<u32> = (0..members.len() as u32).collect();
        for places in order.chunk_by(|&a, &b| group(a) == group(b)).filter(|places| places.len() > 1) {
            let mut heads: Vec<(u32, Bag)> = Vec::new();
            let mut head_of: HashMap<u32, u32> = HashMap::new();
            for &at in places {
                let member = members[at as usize];
                let name = head_of.entry(texts.said(member)).or_insert_with(|| {
                    let bag = Bag::of(&texts.text(member));
                    let like = heads.iter().rev().take(HEADS).find(|(_, head)| head.is_near(&bag));
                    like.map(|(head, _)| *head).unwrap_or_else(|| {
                        heads.push((at, bag));
                        at
                    })
                });
                names[at as usize] = *name;
            }
        }
        Near::of(texts.len(), members, &names)
    }

    /// `names[i]`: the place in `members` that the group of the i-th member is called after.
    fn of(n_texts: usize, members: &[u32], names: &[u32]) -> Near {
        let mut group: Vec<u32> = (0..n_texts as u32).collect();
        for (&member, &name) in members.iter().zip(names) {
            group[member as usize] = members[name as usize];
        }
        Near { group }
    }

    /// The group of a text.
    pub fn group(&self, number: u32) -> u32 {
        self.group[number as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_known_by_what_they_are_and_by_what_they_say() {
        let list: Vec<_> = (0..6000).map(|i| format!("Text {i}")).collect();
        let mut texts = NewTexts::default();
        for part in list.chunks(2500) {
            texts.add(&part.iter().map(String::as_str).collect::<Vec<_>>()).unwrap();
        }
        let others = [format!(" {}\n", list[5]), list[7].to_uppercase(), "new".into()];
        let numbers = texts.add(&others.each_ref().map(String::as_str)).unwrap();
        assert_eq!(numbers, [5, 6000, 6001]);
        let texts = texts.done();
        assert_eq!([5, 7, 6000, 6001].map(|number| texts.said(number)), [5, 7, 7, 6001]);
        assert_eq!(
            (texts.read(&[7, 6000, 0]), texts.len()),
            (["Text 7", "TEXT 7", "Text 0"].map(String::from).into(), 6002)
        );
        texts.check().unwrap();
    }

    #[test]
    fn what_belongs_to_a_number_is_each_once_and_ascending() {
        let pairs = Pairs::new([(3, 9), (1, 2), (3, 4), (3, 9)]);
        assert_eq!([3, 1, 2].map(|number| pairs.of(number).collect::<Vec<_>>()), [vec![4, 9], vec![2], vec![]]);
        assert!(pairs.has(3, 4) && !pairs.has(4, 3));
    }
}

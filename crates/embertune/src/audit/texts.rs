//! The texts of an audit by number, and which of them are the same, or nearly.
//!
//! Three degrees: equal ([`TextId::of`], one number), equal but for case and punctuation at the ends of words ([`TextId::near`], what
//! training masks by: [`Texts::said`]), and nearly the same words ([`Near`]).

use std::collections::HashMap;

use rayon::prelude::*;

use crate::data::near::near_groups;
use crate::data::{Example, TextId};
use crate::mine::overlap::Bag;

/// With how many texts of a group another is compared: keeps time linear where thousands of texts follow one pattern.
const HEADS: usize = 64;

/// Distinct texts in the order in which they were first seen.
#[derive(Default)]
pub struct Texts<'a> {
    /// The texts; a number is an index into them.
    pub list: Vec<&'a str>,
    number_of: HashMap<TextId, u32>,
    said: Vec<u32>,
    said_of: HashMap<TextId, u32>,
}

/// The texts of a row by number.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Numbers {
    /// Of the query.
    pub query: u32,
    /// Of the positives, in their order.
    pub positives: Vec<u32>,
    /// Of the negatives, in their order.
    pub negatives: Vec<u32>,
}

impl Numbers {
    /// Positives, then negatives.
    pub fn passages(&self) -> impl Iterator<Item = u32> {
        self.positives.iter().chain(&self.negatives).copied()
    }
}

impl<'a> Texts<'a> {
    /// The numbers of the texts, new ones for those that are new.
    pub fn add(&mut self, texts: &[&'a str]) -> Vec<u32> {
        let ids: Vec<_> = texts.par_iter().map(|text| (TextId::of(text), TextId::near(text))).collect();
        texts.iter().zip(ids).map(|(text, (id, said))| self.number(text, id, said)).collect()
    }

    fn number(&mut self, text: &'a str, id: TextId, said: TextId) -> u32 {
        let next = self.list.len() as u32;
        let number = *self.number_of.entry(id).or_insert(next);
        if number == next {
            self.list.push(text);
            self.said.push(*self.said_of.entry(said).or_insert(next));
        }
        number
    }

    /// The rows by the numbers of their texts.
    pub fn add_rows(&mut self, examples: &'a [Example]) -> Vec<Numbers> {
        let of_row = |example: &'a Example| {
            [&example.query].into_iter().chain(&example.positives).chain(&example.negatives).map(String::as_str)
        };
        let texts: Vec<&str> = examples.iter().flat_map(of_row).collect();
        let mut numbers = self.add(&texts).into_iter();
        let mut take = |n: usize| numbers.by_ref().take(n).collect::<Vec<_>>();
        let rows = examples.iter().map(|example| Numbers {
            query: take(1)[0],
            positives: take(example.positives.len()),
            negatives: take(example.negatives.len()),
        });
        rows.collect()
    }

    /// The first text that says the same as this one: equal but for case and punctuation at the ends of words.
    pub fn said(&self, number: u32) -> u32 {
        self.said[number as usize]
    }

    /// The number of texts.
    pub fn len(&self) -> usize {
        self.list.len()
    }
}

/// Each of `numbers` once, in its order, and whether a number is among them.
pub fn distinct(numbers: impl IntoIterator<Item = u32>, n_texts: usize) -> (Vec<u32>, Vec<bool>) {
    let mut is_in = vec![false; n_texts];
    let list = numbers.into_iter().filter(|&number| !std::mem::replace(&mut is_in[number as usize], true)).collect();
    (list, is_in)
}

/// Which texts are nearly the same. Groups may be chains: each text is near one of its group, maybe not near all.
pub struct Near {
    /// For each text a number that its group has in common; its own where it was not among the members.
    group: Vec<u32>,
}

impl Near {
    /// Groups `members`, some of `texts`, by their letters ([`near_groups`]): finds rewordings, and texts after one pattern with them.
    pub fn loosely(texts: &Texts<'_>, members: &[u32]) -> Near {
        let member_texts: Vec<&str> = members.iter().map(|&member| texts.list[member as usize]).collect();
        let mut groups = near_groups(&member_texts);
        let mut first: HashMap<u32, u32> = HashMap::new();
        for (at, &member) in members.iter().enumerate() {
            groups.join(*first.entry(texts.said(member)).or_insert(at as u32), at as u32);
        }
        Near::of(texts.len(), members, &groups.names())
    }

    /// Splits the groups by their words ([`Bag::is_near`], the rule of mining): what is left in one group says the same.
    pub fn strictly(&self, texts: &Texts<'_>, members: &[u32]) -> Near {
        let mut of_group: HashMap<u32, Vec<u32>> = HashMap::new();
        for (at, &member) in members.iter().enumerate() {
            of_group.entry(self.group(member)).or_default().push(at as u32);
        }
        let mut names: Vec<u32> = (0..members.len() as u32).collect();
        for places in of_group.into_values().filter(|places| places.len() > 1) {
            let mut heads: Vec<(u32, Bag)> = Vec::new();
            let mut head_of: HashMap<u32, u32> = HashMap::new();
            for at in places {
                let member = members[at as usize];
                let name = head_of.entry(texts.said(member)).or_insert_with(|| {
                    let bag = Bag::of(texts.list[member as usize]);
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

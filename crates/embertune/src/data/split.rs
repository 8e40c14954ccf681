//! Rows on three sides, train, dev and test, so that nothing that is trained on gives away what is tested.
//!
//! A query is on one side with all its rows, with its near-duplicates ([`near`](super::near)), and with all queries that share a
//! positive with it, and so on along the chain: such a group is never torn. A positive of very many queries is a label, as where
//! each of 77 answers serves hundreds of questions: it has to be on every side, and ties nothing.
//!
//! Groups go to the sides in an order that the seed and their texts decide, so that neither the order of the file nor rows that are added
//! move many others: test takes those that fit until its share is full, then dev, and train has the rest. A group that is larger than a
//! share is therefore in train.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;

use serde::Serialize;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::identity::TextId;
use super::near::{Groups, near_groups};
use crate::error::{Error, Result};

/// How to split.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SplitSettings {
    /// Share of the different queries to tune on; 0 for no such side. Default 0.1.
    pub dev: f64,
    /// Share of the different queries to test on; 0 for no such side. Default 0.1.
    pub test: f64,
    /// Another seed gives another split. Default 42.
    pub seed: u64,
    /// A positive of more queries than this is a label and does not keep them together. Default 20.
    pub max_queries_per_positive: usize,
    /// Rows whose queries are on no side, nor near-duplicates of them: those that a model is tested on elsewhere. Default none.
    pub apart_from: Option<PathBuf>,
}

impl Default for SplitSettings {
    fn default() -> Self {
        SplitSettings { dev: 0.1, test: 0.1, seed: 42, max_queries_per_positive: 20, apart_from: None }
    }
}

/// One of the three.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// To learn from.
    Train,
    /// To choose settings and checkpoints by.
    Dev,
    /// To look at once, at the end.
    Test,
}

impl Side {
    /// All of them.
    pub const ALL: [Side; 3] = [Side::Train, Side::Dev, Side::Test];

    /// Its name, that of its file without the ending.
    pub fn name(self) -> &'static str {
        match self {
            Side::Train => "train",
            Side::Dev => "dev",
            Side::Test => "test",
        }
    }
}

/// Who is where, and what it took.
#[derive(Clone, Debug, PartialEq)]
pub struct Split {
    /// The side of each row, in the order in which they were added; `None` where it is on none.
    pub sides: Vec<Option<Side>>,
    /// The counts.
    pub summary: SplitSummary,
}

/// Numbers about a split. Queries are counted once, whatever their number of rows.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct SplitSummary {
    /// Rows in train, dev and test.
    pub n_rows: [usize; 3],
    /// Queries in train, dev and test.
    pub n_queries: [usize; 3],
    /// Queries that were asked for in dev and test.
    pub n_wanted: [usize; 2],
    /// Queries that have a near-duplicate.
    pub n_near: usize,
    /// Queries that share a positive with another one; those of labels not among them.
    pub n_sharing: usize,
    /// Groups of at least two queries, which stay together.
    pub n_groups: usize,
    /// Queries in these groups.
    pub n_grouped: usize,
    /// Queries that are on another side than they would be if each query stood alone.
    pub n_moved: usize,
    /// Queries in the largest group.
    pub largest_group: usize,
    /// Groups that are larger than a share, and in train for this reason.
    pub n_too_large: usize,
    /// Positives that are labels.
    pub n_labels: usize,
    /// Queries that are on no side, since a model is tested on them or on near-duplicates elsewhere.
    pub n_apart: usize,
}

impl SplitSummary {
    /// What is worth saying, in sentences of a line.
    pub fn remarks(&self, settings: &SplitSettings) -> Vec<String> {
        let mut remarks = Vec::new();
        if let Some(path) = settings.apart_from.as_ref().filter(|_| self.n_apart > 0) {
            remarks.push(format!(
                "{} queries are in {}, or nearly: their rows are left out",
                self.n_apart,
                path.display()
            ));
        }
        if self.n_groups > 0 {
            remarks.push(format!(
                "{} queries have near-duplicates and {} share a positive: {} groups of {} queries stay together, the largest of {}; \
                 {} queries were moved to the side of their group",
                self.n_near, self.n_sharing, self.n_groups, self.n_grouped, self.largest_group, self.n_moved
            ));
        }
        if self.n_labels > 0 {
            remarks.push(format!(
                "{} positives answer more than {} queries each and are taken for labels: they keep nothing together and are on several sides",
                self.n_labels, settings.max_queries_per_positive
            ));
        }
        if self.n_too_large > 0 {
            remarks.push(format!(
                "groups that are larger than dev or test shall be, and in train for this reason: {}; the largest has {} queries",
                self.n_too_large, self.largest_group
            ));
        }
        for (i, side) in [Side::Dev, Side::Test].into_iter().enumerate() {
            let (wanted, got) = (self.n_wanted[i], self.n_queries[i + 1]);
            if wanted != got {
                remarks.push(format!("{} has {got} queries, not {wanted}: a group can't be torn", side.name()));
            }
        }
        remarks
    }
}

/// Takes rows, then splits them. Of a row it keeps the query, once, and 8 bytes per positive.
#[derive(Default)]
pub struct Splitter {
    /// Number of each query, by half of its [`TextId`]: of 5 million queries, two are confused with a probability of 1e-6.
    numbers: HashMap<u64, u32>,
    ids: Vec<u64>,
    /// The text of all queries, and where each ends.
    texts: String,
    ends: Vec<usize>,
    query_of_row: Vec<u32>,
    /// A positive and a query that it answers.
    answers: Vec<(u64, u32)>,
    /// Queries to keep apart from.
    apart: Vec<String>,
}

impl Splitter {
    /// Takes a row.
    pub fn add<'a>(&mut self, query: &str, positives: impl IntoIterator<Item = &'a str>) {
        let id = TextId::of(query).0 as u64;
        let number = *self.numbers.entry(id).or_insert(self.ids.len() as u32);
        if number as usize == self.ids.len() {
            self.ids.push(id);
            self.texts.push_str(query);
            self.ends.push(self.texts.len());
        }
        self.query_of_row.push(number);
        self.answers.extend(positives.into_iter().map(|text| (TextId::near(text).0 as u64, number)));
    }

    /// Keeps this query, and its near-duplicates, off all sides.
    pub fn keep_apart(&mut self, query: String) {
        self.apart.push(query);
    }

    /// Splits what was taken. Runs in the current rayon pool; the result does not depend on its size.
    ///
    /// # Errors
    /// Shares that are none, or leave nothing to train on; a share that is smaller than half of every group.
    pub fn split(mut self, settings: &SplitSettings) -> Result<Split> {
        let SplitSettings { dev, test, .. } = *settings;
        for (flag, share) in [("dev", dev), ("test", test)] {
            if !(0.0..1.0).contains(&share) {
                let hint = "a tenth is 0.1; 0 makes no such side";
                return Err(setting(format!("`--{flag} {share}`: expected a share from 0 to 1, 1 not included"), hint));
            }
        }
        let n_before = self.ids.len();
        let numbers = self.leave_out();
        let n = self.ids.len();
        if n == 0 && n_before > 0 {
            let problem = format!(
                "all {n_before} different queries are among those that they have to be kept apart from, or nearly"
            );
            return Err(setting(problem, "a model can't be tested on what it learns from: name other rows"));
        }
        let wanted = |share: f64| if share > 0.0 { ((share * n as f64).round() as usize).max(1) } else { 0 };
        let n_wanted = [wanted(dev), wanted(test)];
        if n_wanted[0] + n_wanted[1] >= n {
            let problem = format!("`--dev {dev} --test {test}` of {n} different queries leaves none to train on");
            return Err(setting(problem, "take smaller shares, or more rows"));
        }
        self.numbers = HashMap::new();
        let mut summary = SplitSummary { n_wanted, n_apart: n_before - n, ..SplitSummary::default() };
        let mut groups = self.near(&mut summary);
        self.join_answered(&mut groups, settings.max_queries_per_positive, &mut summary);
        let names = groups.names();

        let alone: Vec<_> = (0..).zip(&self.ids).map(|(name, &id)| Group { name, size: 1, id }).collect();
        // A group is called after one of its queries, and has the smallest of their ids.
        let mut grouped = alone.clone();
        for (query, &name) in names.iter().enumerate().filter(|&(query, &name)| name as usize != query) {
            grouped[name as usize].size += 1;
            grouped[name as usize].id = grouped[name as usize].id.min(self.ids[query]);
            grouped[query].size = 0;
        }
        let size_of = |query: usize| grouped[names[query] as usize].size as usize;
        let alone = fill(alone, n_wanted, settings.seed);
        let placed = fill(grouped.iter().filter(|group| group.size > 0).copied().collect(), n_wanted, settings.seed);
        let side_of = |query: usize| placed.get(&names[query]).copied().unwrap_or(Side::Train);
        for query in 0..n {
            let side = side_of(query);
            summary.n_queries[side as usize] += 1;
            if size_of(query) > 1 {
                summary.n_grouped += 1;
                summary.n_moved += usize::from(alone.get(&(query as u32)).copied().unwrap_or(Side::Train) != side);
            }
        }
        let smallest_share = n_wanted.into_iter().filter(|&n| n > 0).min().unwrap_or(n);
        for group in grouped.iter().filter(|group| group.size > 0) {
            let size = group.size as usize;
            summary.n_groups += usize::from(size > 1);
            summary.n_too_large += usize::from(size > smallest_share && !placed.contains_key(&group.name));
            summary.largest_group = summary.largest_group.max(size);
        }
        for (i, side) in [Side::Dev, Side::Test].into_iter().enumerate() {
            if n_wanted[i] > 0 && summary.n_queries[i + 1] == 0 {
                let problem = format!(
                    "no group of queries fits into {}, {} of {n} queries: near-duplicates and shared positives tie up to {} together",
                    side.name(),
                    n_wanted[i],
                    summary.largest_group
                );
                return Err(setting(problem, "take a larger share, or a smaller `--max_queries_per_positive`"));
            }
        }
        let side_of_row = |&query: &u32| numbers[query as usize].map(|query| side_of(query as usize));
        let sides: Vec<_> = self.query_of_row.iter().map(side_of_row).collect();
        sides.iter().flatten().for_each(|&side| summary.n_rows[side as usize] += 1);
        Ok(Split { sides, summary })
    }

    fn texts(&self) -> Vec<&str> {
        let starts = [0].into_iter().chain(self.ends.iter().copied());
        starts.zip(&self.ends).map(|(start, &end)| &self.texts[start..end]).collect()
    }

    /// Forgets the queries to keep apart, but for their places in `query_of_row`. Gives the new number of every query that is left.
    fn leave_out(&mut self) -> Vec<Option<u32>> {
        let n = self.ids.len();
        if self.apart.is_empty() {
            return (0..n as u32).map(Some).collect();
        }
        let texts = self.texts();
        let all: Vec<&str> = texts.iter().copied().chain(self.apart.iter().map(String::as_str)).collect();
        let names = near_groups(all.as_slice()).names();
        let apart: HashSet<u32> = names[n..].iter().copied().collect();
        let exact: HashSet<u64> = self.apart.iter().map(|query| TextId::of(query).0 as u64).collect();
        let is_left = |query: usize| !apart.contains(&names[query]) && !exact.contains(&self.ids[query]);
        let mut left = Splitter::default();
        let numbers: Vec<_> = (0..n)
            .map(|query| {
                is_left(query).then(|| {
                    left.ids.push(self.ids[query]);
                    left.texts.push_str(texts[query]);
                    left.ends.push(left.texts.len());
                    left.ids.len() as u32 - 1
                })
            })
            .collect();
        let answers = self.answers.iter().filter_map(|&(positive, query)| Some((positive, numbers[query as usize]?)));
        left.answers = answers.collect();
        left.query_of_row = std::mem::take(&mut self.query_of_row);
        *self = left;
        numbers
    }

    fn near(&self, summary: &mut SplitSummary) -> Groups {
        let texts = self.texts();
        let groups = near_groups(texts.as_slice());
        let mut sizes = vec![0_u32; texts.len()];
        let names = groups.clone().names();
        names.iter().for_each(|&name| sizes[name as usize] += 1);
        summary.n_near = names.iter().filter(|&&name| sizes[name as usize] > 1).count();
        groups
    }

    /// Joins the queries of each positive that is no label.
    fn join_answered(&mut self, groups: &mut Groups, limit: usize, summary: &mut SplitSummary) {
        self.answers.sort_unstable();
        self.answers.dedup();
        let mut is_sharing = vec![false; self.ids.len()];
        for answered in self.answers.chunk_by(|a, b| a.0 == b.0) {
            if answered.len() > limit {
                summary.n_labels += 1;
                continue;
            }
            for pair in answered.windows(2) {
                groups.join(pair[0].1, pair[1].1);
                is_sharing[pair[0].1 as usize] = true;
                is_sharing[pair[1].1 as usize] = true;
            }
        }
        summary.n_sharing = is_sharing.into_iter().filter(|&sharing| sharing).count();
    }
}

/// Queries that stay together.
#[derive(Clone, Copy)]
struct Group {
    name: u32,
    size: u32,
    id: u64,
}

/// The sides of those of `groups` that are not in train, by name.
fn fill(mut groups: Vec<Group>, n_wanted: [usize; 2], seed: u64) -> HashMap<u32, Side> {
    groups.sort_unstable_by_key(|group| (xxh3_64_with_seed(&group.id.to_le_bytes(), seed), group.id));
    let mut placed = HashMap::new();
    for (side, wanted) in [(Side::Test, n_wanted[1]), (Side::Dev, n_wanted[0])] {
        let mut left = wanted as u32;
        groups.retain(|group| {
            let fits = left > 0 && group.size <= left;
            if fits {
                left -= group.size;
                placed.insert(group.name, side);
            }
            !fits
        });
        // One more where that comes closer to what is wanted: the first of the smallest ones.
        if left > 0
            && let Some(at) = (0..groups.len()).min_by_key(|&at| groups[at].size)
            && groups[at].size < 2 * left
            && groups.len() > 1
        {
            placed.insert(groups.remove(at).name, side);
        }
    }
    placed
}

fn setting(problem: String, hint: &str) -> Error {
    Error::Setting { problem, hint: Some(hint.into()) }
}

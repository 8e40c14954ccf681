//! Who is whose positive: two hashes for each pair, since there may be millions.

/// What texts say that are positives of what queries say, as [`Texts::id`](super::texts::Texts::id) has them.
#[derive(Clone, Debug, Default)]
pub struct Known {
    /// Of query and positive, in order.
    pairs: Vec<(u64, u64)>,
}

impl Known {
    /// Of pairs of a query and a positive of it.
    pub fn new(mut pairs: Vec<(u64, u64)>) -> Known {
        pairs.sort_unstable();
        pairs.dedup();
        Known { pairs }
    }

    /// Both together.
    pub fn join(self, others: Known) -> Known {
        let mut pairs = self.pairs;
        pairs.extend(others.pairs);
        Known::new(pairs)
    }

    /// What is known of a query.
    pub fn of(&self, query: u64) -> KnownOf<'_> {
        let start = self.pairs.partition_point(|pair| pair.0 < query);
        let n = self.pairs[start..].partition_point(|pair| pair.0 == query);
        KnownOf { query, pairs: &self.pairs[start..start + n] }
    }
}

/// What is never a negative of a query.
#[derive(Clone, Copy, Debug)]
pub struct KnownOf<'a> {
    query: u64,
    pairs: &'a [(u64, u64)],
}

impl KnownOf<'_> {
    /// Whether `text` is one of its positives, or the query itself.
    pub fn contains(&self, text: u64) -> bool {
        text == self.query || self.pairs.binary_search(&(self.query, text)).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_has_its_positives_of_all_rows_and_itself_and_no_others() {
        let known = Known::new(vec![(5, 1), (9, 2), (5, 3), (5, 1)]).join(Known::new(vec![(5, 7), (2, 5)]));
        for (query, expected) in [(5, vec![1, 3, 5, 7]), (9, vec![2, 9]), (2, vec![2, 5]), (4, vec![4])] {
            let of = known.of(query);
            assert_eq!((0..12).filter(|&text| of.contains(text)).collect::<Vec<_>>(), expected, "{query}");
        }
    }
}

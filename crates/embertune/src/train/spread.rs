//! Rows into batches of fixed sizes so that no text comes twice in a batch, as far as the data allows: `--batch_sampler no_duplicates`.
//!
//! Each row goes to the first batch with room behind the batches that its texts are in. What finds no place so, at the end, changes
//! places with a row that does. The number of batches stays what it is without all this, unlike in sentence-transformers, where a
//! batch that cannot be filled stays small and an epoch gets longer than planned.

use std::collections::HashSet;
use std::hash::Hash;
use std::ops::Range;

/// How many times two rows are compared in search of a place, over the whole epoch: about a second. Where most rows share a text there
/// is none to be found.
const TRIES: usize = 10_000_000;

/// `order` rearranged, for batches of `batch_size` rows in a row. `texts_of` gives what has to differ within a batch.
pub fn spread<T: Ord + Copy>(order: &[usize], batch_size: usize, texts_of: impl Fn(usize) -> Vec<T>) -> Vec<usize> {
    let mut batches = Batches::new(order, batch_size, texts_of);
    let homeless: Vec<_> = (0..order.len()).filter(|&item| !batches.place_behind(item)).collect();
    batches.open = (0..batches.items.len()).filter(|&batch| batches.has_room(batch)).collect();
    let homeless: Vec<_> =
        homeless.into_iter().filter(|&item| !batches.place(item) && !batches.place_by_swap(item)).collect();
    batches.fill(homeless);
    batches.items.into_iter().flatten().map(|item| order[item]).collect()
}

/// How many rows share a text with a row before them in their batch.
pub fn n_sharing<T: Eq + Hash>(order: &[usize], batch_size: usize, texts_of: impl Fn(usize) -> Vec<T>) -> usize {
    let in_batch = |rows: &[usize]| {
        let mut seen = HashSet::new();
        let mut shares = |row: &usize| {
            let texts = texts_of(*row);
            let shares = texts.iter().any(|text| seen.contains(text));
            seen.extend(texts);
            shares
        };
        rows.iter().filter(|row| shares(row)).count()
    };
    order.chunks(batch_size).map(in_batch).sum()
}

/// Batches that are being filled. Items are places in the order, texts are numbered.
struct Batches {
    items: Vec<Vec<usize>>,
    sizes: Vec<usize>,
    /// Those of all items, one after the other, and where those of each item end.
    texts: Vec<u32>,
    ends: Vec<usize>,
    /// For each text, the batch behind the last one that has it.
    behind: Vec<u32>,
    /// For each batch a later one, or itself while it has room: followed, the first with room.
    next_open: Vec<usize>,
    /// The batches with room, once all rows were given a first place.
    open: Vec<usize>,
    tries_left: usize,
}

impl Batches {
    fn new<T: Ord + Copy>(order: &[usize], batch_size: usize, texts_of: impl Fn(usize) -> Vec<T>) -> Self {
        let (mut texts, mut ends) = (Vec::new(), Vec::with_capacity(order.len()));
        for &row in order {
            texts.extend(texts_of(row));
            ends.push(texts.len());
        }
        // Sorted lists rather than a map: there may be millions of texts.
        let mut distinct = texts.clone();
        distinct.sort_unstable();
        distinct.dedup();
        let number = |text: &T| distinct.partition_point(|other| other < text) as u32;
        let texts: Vec<_> = texts.iter().map(number).collect();
        let sizes: Vec<_> = order.chunks(batch_size).map(<[_]>::len).collect();
        let behind = vec![0; distinct.len()];
        let next_open = (0..=sizes.len()).collect();
        Batches {
            items: vec![Vec::new(); sizes.len()],
            sizes,
            texts,
            ends,
            behind,
            next_open,
            open: Vec::new(),
            tries_left: TRIES,
        }
    }

    fn put(&mut self, item: usize, batch: usize) {
        self.items[batch].push(item);
        if !self.has_room(batch) {
            self.next_open[batch] = batch + 1;
            self.open.retain(|&open| open != batch);
        }
        for text in self.places_of(item) {
            let text = self.texts[text] as usize;
            self.behind[text] = self.behind[text].max(batch as u32 + 1);
        }
    }

    /// The places of an item's texts in the list of all.
    fn places_of(&self, item: usize) -> Range<usize> {
        (if item == 0 { 0 } else { self.ends[item - 1] })..self.ends[item]
    }

    fn has_room(&self, batch: usize) -> bool {
        self.items[batch].len() < self.sizes[batch]
    }

    fn first_open(&mut self, from: usize) -> usize {
        let mut batch = from;
        while self.next_open[batch] != batch {
            // Half of the way is saved for the next time.
            self.next_open[batch] = self.next_open[self.next_open[batch]];
            batch = self.next_open[batch];
        }
        batch
    }

    fn place_behind(&mut self, item: usize) -> bool {
        let texts = &self.texts[self.places_of(item)];
        let from = texts.iter().map(|&text| self.behind[text as usize]).max().unwrap_or(0);
        let batch = self.first_open(from as usize);
        let is_found = batch < self.items.len();
        if is_found {
            self.put(item, batch);
        }
        is_found
    }

    /// Whether no text of the item is in the batch; never, when all tries are used up.
    fn fits(&mut self, item: usize, batch: usize) -> bool {
        self.tries_left = self.tries_left.saturating_sub(1 + self.items[batch].len());
        let mut others = self.items[batch].iter().flat_map(|&other| &self.texts[self.places_of(other)]);
        self.tries_left > 0 && !others.any(|text| self.texts[self.places_of(item)].contains(text))
    }

    /// The last batch with room in which the item fits.
    fn open_for(&mut self, item: usize) -> Option<usize> {
        let n_open = if self.tries_left > 0 { self.open.len() } else { 0 };
        (0..n_open).rev().find_map(|i| {
            let batch = self.open[i];
            self.fits(item, batch).then_some(batch)
        })
    }

    fn place(&mut self, item: usize) -> bool {
        let batch = self.open_for(item);
        batch.into_iter().for_each(|batch| self.put(item, batch));
        batch.is_some()
    }

    fn place_by_swap(&mut self, item: usize) -> bool {
        for batch in 0..self.items.len() {
            let n_tried = if self.fits(item, batch) { self.items[batch].len() } else { 0 };
            for place in 0..n_tried {
                let other = self.items[batch][place];
                if let Some(room) = self.open_for(other) {
                    self.items[batch][place] = item;
                    self.put(other, room);
                    return true;
                }
            }
            if self.tries_left == 0 {
                break;
            }
        }
        false
    }

    /// Puts the rest where there is room, from the end.
    fn fill(&mut self, mut rest: Vec<usize>) {
        for batch in (0..self.items.len()).rev() {
            while self.has_room(batch) {
                let Some(item) = rest.pop() else { return };
                self.items[batch].push(item);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Shuffle;

    /// Rows with two texts each, of `n_texts` with very different frequencies.
    fn texts(n_texts: usize) -> impl Fn(usize) -> Vec<usize> {
        move |row| {
            let pick = Shuffle::new(n_texts, row as u64).next().unwrap();
            vec![pick * pick / n_texts, n_texts + row]
        }
    }

    fn order(n: usize) -> Vec<usize> {
        Shuffle::new(n, 7).collect()
    }

    #[test]
    fn every_row_has_its_place_and_no_text_comes_twice_in_a_batch() {
        for (n, batch_size, n_texts) in [(1000, 4, 60), (1003, 8, 200), (64, 4, 30), (10, 2, 10), (1, 4, 3), (0, 4, 3)]
        {
            let texts = texts(n_texts);
            let spread = spread(&order(n), batch_size, &texts);
            let mut sorted = spread.clone();
            sorted.sort_unstable();
            assert_eq!(sorted, (0..n).collect::<Vec<_>>());
            assert_eq!(n_sharing(&spread, batch_size, &texts), 0, "{n} {batch_size} {n_texts}");
        }
        assert!(n_sharing(&order(1000), 4, texts(60)) > 20, "the order alone does not do");
    }

    #[test]
    fn what_cannot_be_placed_is_little() {
        // 3 texts in batches of 4: one row at least of each batch cannot be told apart, and no more than that.
        let texts = |row: usize| vec![row % 3];
        let spread = spread(&order(300), 4, texts);
        assert_eq!(n_sharing(&spread, 4, texts), 75);
    }

    #[test]
    fn rows_of_one_text_all_get_a_place() {
        let mut spread = spread(&order(50), 8, |_| vec!["the same"]);
        spread.sort_unstable();
        assert_eq!(spread, (0..50).collect::<Vec<_>>());
    }

    #[test]
    fn rows_without_a_text_in_common_keep_their_order() {
        assert_eq!(spread(&order(30), 4, |row| vec![row]), order(30));
    }
}

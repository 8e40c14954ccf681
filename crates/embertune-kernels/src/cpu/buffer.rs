//! Buffers of `f32`, aligned to cache lines, drawn from a pool and returned to it on drop.
//!
//! A training step asks for the same few dozen sizes again and again; after the first step the pool serves them all.

use std::collections::BTreeMap;
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use memmap2::MmapMut;

use crate::ops::BufferBytes;

/// Numbers of 4 bytes in a cache line.
pub(crate) const LINE: usize = 16;

/// A cache line of 64 bytes, which is also an AVX-512 register.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([f32; LINE]);

/// From this size on memory is asked of the system by itself, and goes back to it when it is freed. On the heap it would leave
/// holes, and a process would keep a tenth more than its buffers need.
const MIN_PAGES_BYTES: usize = 256 << 10;

/// Bytes of a huge page, where the system has them.
const HUGE: usize = 2 << 20;

/// Zeros at first.
enum Memory {
    Heap(Vec<Line>),
    Pages(Pages),
}

impl Memory {
    fn new(n_lines: usize) -> Self {
        let n_bytes = n_lines * size_of::<Line>();
        if n_bytes >= MIN_PAGES_BYTES {
            // Where the system has none left, nor would the heap, which ends the program with a message.
            if let Ok(pages) = Pages::new(n_bytes) {
                return Memory::Pages(pages);
            }
        }
        Memory::Heap(vec![Line([0.0; LINE]); n_lines])
    }

    fn n_lines(&self) -> usize {
        match self {
            Memory::Heap(lines) => lines.len(),
            Memory::Pages(pages) => pages.n_bytes / size_of::<Line>(),
        }
    }

    fn as_ptr(&self) -> *const f32 {
        match self {
            Memory::Heap(lines) => lines.as_ptr().cast(),
            Memory::Pages(pages) => pages.map[pages.start..].as_ptr().cast(),
        }
    }

    fn as_mut_ptr(&mut self) -> *mut f32 {
        match self {
            Memory::Heap(lines) => lines.as_mut_ptr().cast(),
            Memory::Pages(pages) => pages.map[pages.start..].as_mut_ptr().cast(),
        }
    }
}

/// Memory that is mapped by itself: huge pages as far as whole ones fit, and small ones behind them. A product reads hundreds of rows at once,
/// more than the CPU remembers addresses of small pages. The system gives huge pages only at multiples of their size.
struct Pages {
    map: MmapMut,
    /// Where in `map` the buffer begins. What is before and behind it is never touched, so it takes no memory.
    start: usize,
    n_bytes: usize,
}

impl Pages {
    fn new(n_bytes: usize) -> std::io::Result<Self> {
        let huge_bytes = n_bytes / HUGE * HUGE;
        if huge_bytes == 0 {
            return Ok(Pages { map: MmapMut::map_anon(n_bytes)?, start: 0, n_bytes });
        }
        let map = MmapMut::map_anon(n_bytes + HUGE)?;
        let start = map.as_ptr().align_offset(HUGE);
        // It is advice: what the system makes of it changes no result.
        #[cfg(target_os = "linux")]
        let _ = map.advise_range(memmap2::Advice::HugePage, start, huge_bytes);
        Ok(Pages { map, start, n_bytes })
    }
}

/// A buffer of a [`Cpu`](super::Cpu). It is a slice of `f32` that begins at a cache line.
pub struct Buffer {
    memory: Memory,
    len: usize,
    pool: Pool,
}

impl Deref for Buffer {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        // SAFETY: `memory` holds `len.div_ceil(LINE)` lines or more (`Pool::take`), each `LINE` initialised floats
        // without padding (`repr(C)`; pages are zeros and begin at a cache line), so `len` floats lie there one after the other;
        // the borrow is that of `self`.
        unsafe { std::slice::from_raw_parts(self.memory.as_ptr(), self.len) }
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [f32] {
        // SAFETY: as in `deref`; `&mut self` makes the borrow unique.
        unsafe { std::slice::from_raw_parts_mut(self.memory.as_mut_ptr(), self.len) }
    }
}

impl Buffer {
    /// The same memory as integers: what [`bf16`](super::bf16) packs its pairs into.
    pub(crate) fn as_bits(&self) -> &[u32] {
        // SAFETY: `u32` has the size and alignment of `f32`, and every bit pattern is valid for both.
        unsafe { std::slice::from_raw_parts(self.as_ptr().cast(), self.len) }
    }

    /// The same memory as integers, to be written.
    pub(crate) fn as_bits_mut(&mut self) -> &mut [u32] {
        bits_mut(self)
    }
}

/// The same memory as integers, to be written.
pub(crate) fn bits_mut(values: &mut [f32]) -> &mut [u32] {
    // SAFETY: as in `Buffer::as_bits`; `&mut` makes the borrow unique.
    unsafe { std::slice::from_raw_parts_mut(values.as_mut_ptr().cast(), values.len()) }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let memory = std::mem::replace(&mut self.memory, Memory::Heap(Vec::new()));
        self.pool.stock().put(memory);
    }
}

impl std::fmt::Debug for Buffer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

/// Where buffers come from and go to. A clone is the same pool.
#[derive(Clone, Default)]
pub(crate) struct Pool(Arc<Mutex<Stock>>);

/// The freed buffers of a pool, and what it counts. Sizes are in lines.
struct Stock {
    /// By their size.
    freed: BTreeMap<usize, Vec<Memory>>,
    /// Of all freed buffers.
    freed_lines: usize,
    /// Of all buffers, those in use included.
    held_lines: usize,
    /// Above this many lines altogether, freed buffers are given back to the system.
    limit: usize,
}

impl Default for Stock {
    fn default() -> Self {
        Stock { freed: BTreeMap::new(), freed_lines: 0, held_lines: 0, limit: usize::MAX }
    }
}

impl Pool {
    /// A buffer for a caller that writes all of it: its contents are zeros or those of an earlier buffer.
    pub(crate) fn take(&self, len: usize) -> Buffer {
        let n_lines = size_class(len.div_ceil(LINE));
        let reused = self.stock().get(n_lines);
        // Not while the pool is locked: the system may take its time to give pages.
        let memory = reused.unwrap_or_else(|| Memory::new(n_lines));
        Buffer { memory, len, pool: self.clone() }
    }

    /// A buffer of zeros.
    pub(crate) fn zeros(&self, len: usize) -> Buffer {
        let mut buffer = self.take(len);
        buffer.fill(0.0);
        buffer
    }

    /// What the buffers take.
    pub(crate) fn bytes(&self) -> BufferBytes {
        let stock = self.stock();
        let bytes = |lines: usize| lines * size_of::<Line>();
        BufferBytes { used: bytes(stock.held_lines - stock.freed_lines), held: bytes(stock.held_lines) }
    }

    /// Keeps no freed buffers while all buffers take more than `bytes`.
    pub(crate) fn limit(&self, bytes: usize) {
        let mut stock = self.stock();
        stock.limit = bytes / size_of::<Line>();
        stock.release_beyond_limit();
    }

    fn stock(&self) -> MutexGuard<'_, Stock> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Stock {
    /// A freed buffer of `n_lines` or more; `None` where the caller is to make one, which is counted.
    fn get(&mut self, n_lines: usize) -> Option<Memory> {
        // Up to twice the size will do: batches differ in length, and the buffers of the longest serve all.
        let reused = self.freed.range_mut(n_lines..=2 * n_lines).find_map(|(_, list)| list.pop());
        match &reused {
            Some(memory) => self.freed_lines -= memory.n_lines(),
            None => {
                self.release_outgrown(n_lines);
                self.held_lines += n_lines;
                self.release_beyond_limit();
            }
        }
        reused
    }

    fn put(&mut self, memory: Memory) {
        let n_lines = memory.n_lines();
        self.freed_lines += n_lines;
        self.freed.entry(n_lines).or_default().push(memory);
        self.release_beyond_limit();
    }

    /// Gives up to `n_lines` of freed buffers that are smaller than that back to the system, the largest first: batches have
    /// outgrown them. Without this the buffers of all earlier sizes would pile up.
    fn release_outgrown(&mut self, n_lines: usize) {
        let mut released = 0;
        for (&size, list) in self.freed.range_mut(..n_lines).rev() {
            while released + size <= n_lines && list.pop().is_some() {
                released += size;
            }
        }
        self.freed_lines -= released;
        self.held_lines -= released;
    }

    /// Gives freed buffers back to the system until the limit is kept or none is left: the smallest that is enough, else the largest. New pages
    /// cost time, so the least is given back, and small buffers that are taken again and again stay.
    fn release_beyond_limit(&mut self) {
        while self.held_lines > self.limit {
            let excess = self.held_lines - self.limit;
            let enough = self.freed.range(excess..).find(|(_, list)| !list.is_empty()).map(|(&size, _)| size);
            let largest = || self.freed.iter().rev().find(|(_, list)| !list.is_empty()).map(|(&size, _)| size);
            let Some(size) = enough.or_else(largest) else { return };
            let released = self.freed.get_mut(&size).and_then(Vec::pop);
            debug_assert!(released.is_some());
            self.freed_lines -= size;
            self.held_lines -= size;
        }
    }
}

/// `n_lines` rounded up to a multiple of an eighth of the power of two below it: batches of similar sizes share
/// buffers, and at most an eighth is wasted.
fn size_class(n_lines: usize) -> usize {
    let step = (n_lines.max(1).ilog2()).saturating_sub(3);
    n_lines.next_multiple_of(1 << step)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_freed_buffer_is_used_again() {
        let pool = Pool::default();
        let first = pool.take(1000);
        let address = first.as_ptr();
        drop(first);
        let second = pool.take(990);
        assert_eq!((second.as_ptr(), second.len()), (address, 990));
        assert_ne!(pool.take(990).as_ptr(), address);
    }

    #[test]
    fn buffers_of_growing_batches_do_not_pile_up() {
        let pool = Pool::default();
        let step = |len: usize| drop([pool.take(len), pool.take(len), pool.take(3 * len)]);
        let held = || pool.bytes().held;
        (10..100).for_each(|i| step(100 * i));
        assert!(held() <= 2 * 4 * LINE * size_class(5 * 9900 / LINE), "{} bytes", held());
        let before = held();
        (60..100).rev().for_each(|i| step(100 * i));
        assert_eq!(held(), before);
    }

    #[test]
    fn buffers_are_counted_and_freed_ones_make_room_under_a_limit() {
        let pool = Pool::default();
        let (a, b) = (pool.take(1024), pool.take(2048));
        let line = size_of::<Line>();
        assert_eq!(pool.bytes(), BufferBytes { used: 192 * line, held: 192 * line });
        drop(a);
        assert_eq!(pool.bytes(), BufferBytes { used: 128 * line, held: 192 * line });
        // The freed buffer would not do, and both together are too much.
        pool.limit(256 * line);
        let c = pool.take(2048);
        assert_eq!(pool.bytes(), BufferBytes { used: 256 * line, held: 256 * line });
        // What is in use goes beyond the limit, and is not kept when it is freed.
        let d = pool.take(1024);
        assert_eq!(pool.bytes().held, 320 * line);
        drop(b);
        assert_eq!(pool.bytes().held, 192 * line);
        drop((c, d));
        assert_eq!(pool.bytes(), BufferBytes { used: 0, held: 192 * line });
        pool.limit(0);
        assert_eq!(pool.bytes(), BufferBytes::default());
    }

    #[test]
    fn a_full_pool_gives_back_the_smallest_buffer_that_is_enough() {
        let pool = Pool::default();
        let line = size_of::<Line>();
        drop([8, 64, 128].map(|n_lines| pool.take(n_lines * LINE)));
        pool.limit(195 * line);
        assert_eq!(pool.bytes(), BufferBytes { used: 0, held: 192 * line });
        // None is enough by itself: the largest goes first.
        pool.limit(40 * line);
        assert_eq!(pool.bytes(), BufferBytes::default());
    }

    #[test]
    fn buffers_begin_at_cache_lines_and_zeros_are_zero() {
        let pool = Pool::default();
        for len in [0, 1, 15, 16, 17, 1000, 100_000] {
            pool.take(len).fill(1.0);
            let buffer = pool.zeros(len);
            assert_eq!(buffer.as_ptr() as usize % 64, 0);
            assert_eq!(buffer.len(), len);
            assert!(buffer.iter().all(|&v| v == 0.0));
        }
    }

    #[test]
    fn size_classes_waste_at_most_an_eighth() {
        for n in 0..5000 {
            let class = size_class(n);
            assert!(class >= n && class <= n + n / 8, "{n} -> {class}");
        }
    }
}

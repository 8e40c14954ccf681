//! Writing to disjoint parts of one buffer from many tasks, where the parts are no contiguous chunks.

use std::marker::PhantomData;

/// A slice that tasks write to in parallel, each to its own elements.
pub(super) struct Scatter<'a, T = f32> {
    start: *mut T,
    len: usize,
    slice: PhantomData<&'a mut [T]>,
}

// SAFETY: the pointer is to a slice that is borrowed uniquely for `'a`; `write` and `part` demand that tasks touch disjoint elements.
unsafe impl<T: Copy + Send> Sync for Scatter<'_, T> {}

impl<'a, T: Copy> Scatter<'a, T> {
    pub(super) fn new(slice: &'a mut [T]) -> Self {
        Scatter { start: slice.as_mut_ptr(), len: slice.len(), slice: PhantomData }
    }

    /// Copies `values` to the elements from `at` on.
    ///
    /// # Safety
    /// While this runs no other thread writes the elements `at..at + values.len()`.
    #[inline(always)]
    pub(super) unsafe fn write(&self, at: usize, values: &[T]) {
        assert!(at + values.len() <= self.len, "{at} + {} of {}", values.len(), self.len);
        // SAFETY: in bounds by the assertion; `values` is another slice, since the target is borrowed uniquely; no
        // other thread writes there by the contract.
        unsafe { std::ptr::copy_nonoverlapping(values.as_ptr(), self.start.add(at), values.len()) };
    }

    /// The `len` elements from `at` on.
    ///
    /// # Safety
    /// While the slice lives no other thread touches these elements, nor is a second slice of them taken.
    #[allow(clippy::mut_from_ref)]
    pub(super) unsafe fn part(&self, at: usize, len: usize) -> &mut [T] {
        assert!(at + len <= self.len, "{at} + {len} of {}", self.len);
        // SAFETY: in bounds by the assertion, and nobody else's by the contract.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(at), len) }
    }

    /// Where the element `at` lies, of which `len` rows of `width` elements follow that begin `stride` elements apart.
    pub(super) fn rows_at(&self, at: usize, len: usize, width: usize, stride: usize) -> *mut T {
        let end = at + len.saturating_sub(1) * stride + width;
        assert!(width <= stride && end <= self.len, "{len} rows of {width} at {at}, {stride} apart, of {}", self.len);
        self.start.wrapping_add(at)
    }
}

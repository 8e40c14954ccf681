//! Writing to disjoint parts of one buffer from many tasks, where the parts are no contiguous chunks.

use std::marker::PhantomData;

/// A slice that tasks write to in parallel, each to its own elements.
pub(super) struct Scatter<'a> {
    start: *mut f32,
    len: usize,
    slice: PhantomData<&'a mut [f32]>,
}

// SAFETY: the pointer is to a slice that is borrowed uniquely for `'a`; `write` demands that tasks write disjoint elements.
unsafe impl Sync for Scatter<'_> {}

impl<'a> Scatter<'a> {
    pub(super) fn new(slice: &'a mut [f32]) -> Self {
        Scatter { start: slice.as_mut_ptr(), len: slice.len(), slice: PhantomData }
    }

    /// Copies `values` to the elements from `at` on.
    ///
    /// # Safety
    /// While this runs no other thread writes the elements `at..at + values.len()`.
    pub(super) unsafe fn write(&self, at: usize, values: &[f32]) {
        assert!(at + values.len() <= self.len, "{at} + {} of {}", values.len(), self.len);
        // SAFETY: in bounds by the assertion; `values` is another slice, since the target is borrowed uniquely; no
        // other thread writes there by the contract.
        unsafe { std::ptr::copy_nonoverlapping(values.as_ptr(), self.start.add(at), values.len()) };
    }
}

//! Sums of squares of many buffers, with one launch for each and one download for all.

use burn_cubecl::CubeRuntime;
use cubecl::prelude::*;

use crate::Gpu;
use crate::tensors::{Buffer, array, written};

/// How many squares a thread adds in f32; the host adds what the threads come to. In f32 a sum of millions of squares one by one is off by 7e-5.
const PER_THREAD: usize = 512;

/// The sum of the squares of each buffer.
pub(crate) fn squared_norms<R: CubeRuntime>(gpu: &Gpu<R>, bufs: &[&Buffer<R>]) -> Vec<f64> {
    let n_threads = || bufs.iter().map(|buf| buf.dims()[0].div_ceil(PER_THREAD));
    let sums = gpu.empty(n_threads().sum());
    let mut first = 0;
    for (buf, n) in bufs.iter().zip(n_threads()).filter(|(_, n)| *n > 0) {
        let (count, dim) = gpu.grid(n);
        squares::launch::<R>(&gpu.client, count, dim, array(buf), written(&sums), first, n);
        first += n;
    }
    let sums = gpu.read(sums);
    let mut rest = sums.as_slice();
    let mut next = |n| {
        let (of_buf, others) = rest.split_at(n);
        rest = others;
        of_buf.iter().copied().map(f64::from).sum()
    };
    n_threads().map(&mut next).collect()
}

/// Neighbouring threads read neighbouring elements; `n` threads write from `first` on.
#[cube(launch)]
fn squares(x: &Array<f32>, sums: &mut Array<f32>, first: usize, n: usize) {
    if ABSOLUTE_POS < n {
        let mut sum = 0.0f32;
        let mut i = ABSOLUTE_POS;
        while i < x.len() {
            sum += x[i] * x[i];
            i += n;
        }
        sums[first + ABSOLUTE_POS] = sum;
    }
}

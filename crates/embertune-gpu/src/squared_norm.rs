//! Sums of squares of many buffers, with one download for all.

use burn_cubecl::CubeRuntime;
use burn_tensor::Tensor;
use cubecl::prelude::*;

use crate::Gpu;
use crate::tensors::{Buffer, array, written};

/// How many squares a thread adds. Sums of sums: in f32 a sum of millions of squares one by one is off by 7e-5.
const PER_THREAD: usize = 512;

/// The sum of the squares of each buffer, in f32 by threads of few squares each.
pub(crate) fn squared_norms<R: CubeRuntime>(gpu: &Gpu<R>, bufs: &[&Buffer<R>]) -> Vec<f64> {
    let sums: Vec<Buffer<R>> = bufs.iter().filter(|buf| buf.dims() != [0]).map(|buf| of_one(gpu, buf)).collect();
    let sums = if sums.is_empty() { Vec::new() } else { gpu.read(Tensor::cat(sums, 0)) };
    let mut sums = sums.into_iter().map(f64::from);
    let next = |buf: &&Buffer<R>| if buf.dims() == [0] { 0.0 } else { sums.next().expect("a sum per buffer") };
    bufs.iter().map(next).collect()
}

fn of_one<R: CubeRuntime>(gpu: &Gpu<R>, buf: &Buffer<R>) -> Buffer<R> {
    let n_threads = buf.dims()[0].div_ceil(PER_THREAD);
    let sums = gpu.empty(n_threads);
    let (count, dim) = gpu.grid(n_threads);
    squares::launch::<R>(&gpu.client, count, dim, array(buf), written(&sums));
    sums.sum()
}

/// Neighbouring threads read neighbouring elements.
#[cube(launch)]
fn squares(x: &Array<f32>, sums: &mut Array<f32>) {
    if ABSOLUTE_POS < sums.len() {
        let mut sum = 0.0f32;
        let mut i = ABSOLUTE_POS;
        while i < x.len() {
            sum += x[i] * x[i];
            i += sums.len();
        }
        sums[ABSOLUTE_POS] = sum;
    }
}

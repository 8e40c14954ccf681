//! Burn's tensors as buffers: their types, to the device and back, and as arguments of kernels.

use std::fmt::Debug;
use std::panic::resume_unwind;

use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::{CubeBackend, CubeRuntime};
use burn_tensor::{Int, Tensor, TensorData, TensorPrimitive};
use cubecl::calculate_cube_count_elemwise;
use cubecl::prelude::{ArrayArg, CubeCount, CubeDim};

use crate::Gpu;

/// Burn's backend on one runtime: f32, and 32-bit integers.
pub type Backend<R> = CubeBackend<R, f32, i32, u32>;
/// A buffer: a tensor of one dimension.
pub type Buffer<R> = Tensor<Backend<R>, 1>;
/// A matrix, row-major.
pub(crate) type Matrix<R> = Tensor<Backend<R>, 2>;
/// Numbers of tokens, texts and rows.
pub(crate) type Indices<R> = Tensor<Backend<R>, 1, Int>;

impl<R: CubeRuntime> Gpu<R> {
    /// A buffer whose values are yet to be written.
    pub(crate) fn empty(&self, len: usize) -> Buffer<R> {
        Tensor::empty([len], &self.device)
    }

    pub(crate) fn filled(&self, len: usize, value: f32) -> Buffer<R> {
        if len == 0 { self.empty(0) } else { Tensor::full([len], value, &self.device) }
    }

    pub(crate) fn floats(&self, values: &[f32]) -> Buffer<R> {
        if values.is_empty() {
            return self.empty(0);
        }
        Tensor::from_data(TensorData::new(values.to_vec(), [values.len()]), &self.device)
    }

    /// Numbers as they are in memory: kernels read them as unsigned.
    pub(crate) fn indices(&self, values: impl IntoIterator<Item = u32>) -> Indices<R> {
        let values: Vec<i32> = values.into_iter().map(u32::cast_signed).collect();
        let len = values.len();
        if len == 0 {
            return Tensor::empty([0], &self.device);
        }
        Tensor::from_data(TensorData::new(values, [len]), &self.device)
    }

    /// The values on the host, after everything before is done. Unwinds with [`Unavailable`](crate::Unavailable), and nothing on standard
    /// error, where something of that failed.
    pub(crate) fn read(&self, buffer: Buffer<R>) -> Vec<f32> {
        if buffer.dims()[0] == 0 {
            return Vec::new();
        }
        self.to_host(|| buffer.try_into_data()).into_vec().expect("a buffer of f32")
    }

    /// As [`read`](Self::read), of numbers.
    pub(crate) fn read_indices(&self, indices: Indices<R>) -> Vec<u32> {
        let data = self.to_host(|| indices.try_into_data());
        data.into_vec().expect("a buffer of i32").into_iter().map(i32::cast_unsigned).collect()
    }

    fn to_host<E: Debug>(&self, read: impl FnOnce() -> Result<TensorData, E>) -> TensorData {
        let data = self.done(|| read().map_err(|error| format!("{error:?}")));
        data.unwrap_or_else(|failure| resume_unwind(Box::new(failure)))
    }

    /// How many threads a pass over `n` elements takes.
    pub(crate) fn grid(&self, n: usize) -> (CubeCount, CubeDim) {
        let dim = CubeDim::new(&self.client, n);
        (calculate_cube_count_elemwise(&self.client, n, dim), dim)
    }
}

/// A buffer as a matrix of rows of `width`.
pub(crate) fn matrix<R: CubeRuntime>(buffer: &Buffer<R>, width: usize) -> Matrix<R> {
    let len = buffer.dims()[0];
    assert!(len.is_multiple_of(width), "{len} numbers in rows of {width}");
    buffer.clone().reshape([len / width, width])
}

/// The elements of a tensor one after the other.
pub(crate) fn flat<R: CubeRuntime, const D: usize>(tensor: Tensor<Backend<R>, D>) -> Buffer<R> {
    let len = tensor.dims().iter().product::<usize>();
    tensor.reshape([len])
}

/// A tensor whose elements lie one after the other: products on CUDA pad their rows.
pub(crate) fn contiguous<R: CubeRuntime, const D: usize>(tensor: Tensor<Backend<R>, D>) -> Tensor<Backend<R>, D> {
    Tensor::from_primitive(TensorPrimitive::Float(into_contiguous(tensor.into_primitive().tensor())))
}

/// The memory of a tensor for a kernel that writes it.
pub(crate) fn written<R: CubeRuntime, const D: usize>(tensor: &Tensor<Backend<R>, D>) -> ArrayArg<R> {
    let tensor = tensor.clone().into_primitive().tensor();
    assert!(tensor.is_contiguous(), "a kernel would write to a copy of {tensor:?}");
    tensor.into_array_arg()
}

/// The memory of a tensor for a kernel that reads it.
pub(crate) fn array<R: CubeRuntime, const D: usize>(tensor: &Tensor<Backend<R>, D>) -> ArrayArg<R> {
    into_contiguous(tensor.clone().into_primitive().tensor()).into_array_arg()
}

/// The memory of numbers for a kernel.
pub(crate) fn index_array<R: CubeRuntime>(indices: &Indices<R>) -> ArrayArg<R> {
    indices.clone().into_primitive().into_array_arg()
}

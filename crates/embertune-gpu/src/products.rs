//! Matrix products: of f32, or of factors in bf16; sums are f32 with either.

use burn_cubecl::CubeRuntime;
use burn_cubecl::kernel::matmul::{MatmulStrategy, init_matmul_output, matmul};
use burn_tensor::{DType, FloatDType, Tensor, TensorPrimitive};
use cubecl::prelude::*;
use cubek::matmul::definition::{MatmulElems, MatmulGlobalElems};
use cubek::matmul::launch::{Strategy, launch_ref};
use cubek::std::InputBinding;

use crate::Gpu;
use crate::tensors::{Backend, array, written};

/// What products multiply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Products {
    /// f32, on every device. Burn by itself would round factors to TF32 (10 bits of fraction) on NVIDIA's tensor cores.
    F32,
    /// bf16.
    Bf16,
    /// f32 whose factors were rounded to bf16: the same numbers where the device does not have the type.
    Bf16Emulated,
}

impl<R: CubeRuntime> Gpu<R> {
    /// `x` as products multiply it.
    pub(crate) fn factor<const D: usize>(&self, x: Tensor<Backend<R>, D>) -> Tensor<Backend<R>, D> {
        match self.products {
            Products::F32 => x,
            Products::Bf16 => x.cast(FloatDType::BF16),
            Products::Bf16Emulated => {
                let n = x.dims().iter().product();
                let y = Tensor::empty(x.dims(), &self.device);
                let (count, dim) = self.grid(n);
                round::launch::<R>(&self.client, count, dim, array(&x), written(&y));
                y
            }
        }
    }
}

/// The product of two [factors](Gpu::factor), matrices or batches of them, in f32.
pub(crate) fn product<R: CubeRuntime, const D: usize>(
    a: Tensor<Backend<R>, D>,
    b: Tensor<Backend<R>, D>,
) -> Tensor<Backend<R>, D> {
    let (a, b) = (a.into_primitive().tensor(), b.into_primitive().tensor());
    let product = if a.dtype == DType::F32 {
        let product = init_matmul_output(&a, &b, DType::F32);
        let f32 = DType::F32.into();
        let mut types = MatmulElems::from_globals(&MatmulGlobalElems { lhs: f32, rhs: f32, out: f32 });
        let (client, out) = (a.client.clone(), product.clone().binding());
        let [a, b] = [a, b].map(|factor| InputBinding::new(factor.binding(), f32));
        launch_ref(&Strategy::SimpleUnit(Default::default()), &client, a, b, out, &mut types).map(|()| product)
    } else {
        matmul(a, b, None, MatmulStrategy::default(), DType::F32)
    };
    let product = product.unwrap_or_else(|error| panic!("a product that no kernel computes: {error:?}"));
    Tensor::from_primitive(TensorPrimitive::Float(product))
}

/// To the nearest number with 8 significant bits, to the even one of two.
#[cube(launch)]
fn round(x: &Array<f32>, y: &mut Array<f32>) {
    if ABSOLUTE_POS < y.len() {
        let bits = u32::reinterpret(x[ABSOLUTE_POS]);
        let last = (bits >> 16u32) & 1u32;
        y[ABSOLUTE_POS] = f32::reinterpret((bits + 0x7FFFu32 + last) & 0xFFFF_0000u32);
    }
}

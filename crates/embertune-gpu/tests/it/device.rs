//! The device that the tests run on.

use std::sync::LazyLock;

use embertune_gpu::{Gpu, Unavailable};

#[cfg(any(feature = "vulkan", feature = "metal"))]
mod opened {
    pub type Runtime = embertune_gpu::Wgpu;
    pub fn open() -> Result<super::Gpu<Runtime>, super::Unavailable> {
        embertune_gpu::wgpu(None)
    }
}
#[cfg(all(feature = "cuda", not(any(feature = "vulkan", feature = "metal"))))]
mod opened {
    pub type Runtime = embertune_gpu::Cuda;
    pub fn open() -> Result<super::Gpu<Runtime>, super::Unavailable> {
        embertune_gpu::cuda(0)
    }
}
#[cfg(all(feature = "rocm", not(any(feature = "cuda", feature = "vulkan", feature = "metal"))))]
mod opened {
    pub type Runtime = embertune_gpu::Rocm;
    pub fn open() -> Result<super::Gpu<Runtime>, super::Unavailable> {
        embertune_gpu::rocm(0)
    }
}

pub type Device = Gpu<opened::Runtime>;

/// The device, opened once. `None` where there is none, and says so.
pub fn device() -> Option<&'static Device> {
    static DEVICE: LazyLock<Result<Device, Unavailable>> = LazyLock::new(opened::open);
    match &*DEVICE {
        Ok(gpu) => Some(gpu),
        Err(error) => {
            eprintln!("SKIPPED: no GPU, nothing is checked: {error}");
            None
        }
    }
}

//! [`Gpu`]: a device, opened and tried.

use std::panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook};
use std::sync::{Arc, Mutex, OnceLock};

use burn_cubecl::CubeRuntime;
use burn_tensor::backend::Backend as _;
use cubecl::prelude::ComputeClient;
use embertune_kernels::ops::BufferBytes;

use crate::geometry::Geometry;
use crate::tensors::Backend;

/// NVIDIA's GPUs.
#[cfg(feature = "cuda")]
pub type Cuda = cubecl::cuda::CudaRuntime;
/// AMD's GPUs.
#[cfg(feature = "rocm")]
pub type Rocm = cubecl::hip::HipRuntime;
/// What Vulkan or Metal know.
#[cfg(any(feature = "vulkan", feature = "metal"))]
pub type Wgpu = cubecl::wgpu::WgpuRuntime;

/// A GPU that computes the operations of an encoder.
pub struct Gpu<R: CubeRuntime> {
    pub(crate) device: R::Device,
    pub(crate) client: ComputeClient<R>,
    /// Of the batch that was used last: all layers ask for the same.
    pub(crate) last_geometry: Arc<Mutex<Option<Arc<Geometry<R>>>>>,
}

impl<R: CubeRuntime> Clone for Gpu<R> {
    /// The same device.
    fn clone(&self) -> Self {
        Gpu { device: self.device.clone(), client: self.client.clone(), last_geometry: Arc::clone(&self.last_geometry) }
    }
}

/// A device that cannot be used, or no longer.
#[derive(Debug, thiserror::Error)]
#[error("{reason}")]
pub struct Unavailable {
    /// What the driver, or the lack of one, says.
    pub reason: String,
}

impl<R: CubeRuntime> Gpu<R> {
    /// Opens a device and computes one sum on it.
    ///
    /// # Errors
    /// Where there is no driver or no such device, or the sum is wrong.
    pub fn open(device: R::Device) -> Result<Self, Unavailable> {
        let gpu = quietly(|| {
            let client = R::client(&device);
            let gpu = Gpu { device, client, last_geometry: Arc::default() };
            let sum = gpu.floats(&[1.0, 2.0]).add_scalar(1.0).try_into_data();
            sum.map(|sum| (gpu, sum.into_vec::<f32>().unwrap_or_default())).map_err(|error| format!("{error:?}"))
        });
        match gpu {
            Ok((gpu, sum)) if sum == [2.0, 3.0] => Ok(gpu),
            Ok((_, sum)) => Err(Unavailable { reason: format!("it computes [1, 2] + 1 = {sum:?}") }),
            Err(reason) => Err(Unavailable { reason }),
        }
    }

    /// The name of the runtime.
    pub fn name(&self) -> &'static str {
        R::name(&self.client)
    }

    /// Number of devices that the runtime sees.
    pub fn n_devices(&self) -> usize {
        self.client.device_count_total()
    }

    /// Waits until everything is computed.
    ///
    /// # Errors
    /// What failed since the last time, lack of memory for one.
    pub fn synchronize(&self) -> Result<(), Unavailable> {
        Backend::<R>::sync(&self.device).map_err(|error| Unavailable { reason: format!("{error:?}") })
    }

    pub(crate) fn memory(&self) -> BufferBytes {
        let usage = self.client.memory_usage().ok();
        usage.map_or_else(BufferBytes::default, |usage| BufferBytes {
            used: usage.bytes_in_use as usize,
            held: usage.bytes_reserved as usize,
        })
    }

    pub(crate) fn release_unused(&self) {
        self.client.memory_cleanup();
    }
}

/// NVIDIA's GPU of this number.
///
/// # Errors
/// Where there is none, or no driver.
#[cfg(feature = "cuda")]
pub fn cuda(index: usize) -> Result<Gpu<Cuda>, Unavailable> {
    Gpu::open(burn_cuda::CudaDevice::new(index))
}

/// AMD's GPU of this number.
///
/// # Errors
/// Where there is none, or no driver.
#[cfg(feature = "rocm")]
pub fn rocm(index: usize) -> Result<Gpu<Rocm>, Unavailable> {
    Gpu::open(cubecl::hip::AmdDevice::new(index))
}

/// The discrete GPU of this number that Vulkan or Metal know; without a number the fastest device, which may be a software one.
///
/// # Errors
/// Where there is none, or no driver.
#[cfg(any(feature = "vulkan", feature = "metal"))]
pub fn wgpu(index: Option<usize>) -> Result<Gpu<Wgpu>, Unavailable> {
    use burn_wgpu::WgpuDevice;
    Gpu::open(index.map_or(WgpuDevice::DefaultDevice, WgpuDevice::DiscreteGpu))
}

#[cfg(any(feature = "vulkan", feature = "metal"))]
impl Gpu<Wgpu> {
    /// Whether the processor plays the GPU, as Mesa's llvmpipe has it.
    pub fn is_software(&self) -> bool {
        // Number 3 is the processor among the kinds of `WgpuDevice`.
        const PROCESSOR: u16 = 3;
        self.client.enumerate_all_devices().iter().all(|id| id.type_id == PROCESSOR)
    }
}

/// What `attempt` gives, or the first message with which it panics: the runtimes panic where a driver is missing, and in a thread of their own.
fn quietly<T>(attempt: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    let first = Arc::new(OnceLock::new());
    let seen = Arc::clone(&first);
    // Nothing is to be seen of the panic; this runs before anything else computes.
    let hook = take_hook();
    set_hook(Box::new(move |panic| {
        let _ = seen.set(panic.payload_as_str().unwrap_or("the driver does not say why").to_string());
    }));
    let outcome = catch_unwind(AssertUnwindSafe(attempt));
    set_hook(hook);
    outcome.unwrap_or_else(|_| Err(first.get().cloned().unwrap_or_else(|| "the driver does not say why".into())))
}

//! [`Gpu`]: a device, opened and tried.

use std::sync::{Arc, Mutex, Once, PoisonError};

use burn_cubecl::CubeRuntime;
use burn_tensor::backend::Backend as _;
use cubecl::config::streaming::StreamingConfig;
use cubecl::config::{CubeClRuntimeConfig, RuntimeConfig as _};
use cubecl::features::TypeUsage;
use cubecl::ir::{ElemType, FloatKind};
use cubecl::prelude::ComputeClient;
use embertune_kernels::ops::{BufferBytes, Memory};

use crate::failure::{Unavailable, caught, opening};
use crate::geometry::Geometry;
use crate::products::Products;
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
    pub(crate) products: Products,
    /// All its memory, where that is known.
    memory_bytes: Option<u64>,
    /// The most that its buffers were seen to take, while somebody wants to know.
    peak: Arc<Mutex<Option<usize>>>,
    /// Of the batch that was used last: all layers ask for the same.
    pub(crate) last_geometry: Arc<Mutex<Option<Arc<Geometry<R>>>>>,
}

impl<R: CubeRuntime> Clone for Gpu<R> {
    /// The same device.
    fn clone(&self) -> Self {
        Gpu {
            device: self.device.clone(),
            client: self.client.clone(),
            products: self.products,
            memory_bytes: self.memory_bytes,
            peak: Arc::clone(&self.peak),
            last_geometry: Arc::clone(&self.last_geometry),
        }
    }
}

impl<R: CubeRuntime> Gpu<R> {
    /// Opens a device and computes one sum on it.
    ///
    /// # Errors
    /// Where there is no driver or no such device, or the sum is wrong.
    pub fn open(device: R::Device) -> Result<Self, Unavailable> {
        let (gpu, sum) = opening(|| {
            compute_in_one_order();
            let client = R::client(&device);
            let gpu = Gpu {
                device,
                client,
                products: Products::F32,
                memory_bytes: None,
                peak: Arc::default(),
                last_geometry: Arc::default(),
            };
            let sum = gpu.floats(&[1.0, 2.0]).add_scalar(1.0).try_into_data();
            sum.map(|sum| (gpu, sum.into_vec::<f32>().unwrap_or_default())).map_err(|error| format!("{error:?}"))
        })?;
        if sum == [2.0, 3.0] { Ok(gpu) } else { Err(Unavailable::new(format!("it computes [1, 2] + 1 = {sum:?}"))) }
    }

    /// The same device, multiplying by the first of `choices` that it has; [`open`](Self::open) gives one that multiplies f32.
    pub fn multiplying(self, choices: &[Products]) -> Option<Self> {
        let of_bf16 = self.client.properties().features.type_usage(ElemType::Float(FloatKind::BF16).into());
        let has_bf16 = of_bf16.is_superset(TypeUsage::Buffer | TypeUsage::Conversion);
        let products = *choices.iter().find(|products| **products != Products::Bf16 || has_bf16)?;
        Some(Gpu { products, ..self })
    }

    /// Whether products multiply bf16.
    pub fn multiplies_bf16(&self) -> bool {
        self.products != Products::F32
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
        self.done(|| Backend::<R>::sync(&self.device).map_err(|error| format!("{error:?}")))
    }

    /// What `wait` gives, which waits for everything before.
    ///
    /// # Errors
    /// What failed since the last time.
    pub(crate) fn done<T>(&self, wait: impl FnOnce() -> Result<T, String>) -> Result<T, Unavailable> {
        caught(wait).map_err(|failure| failure.with_bytes(self.buffers().held))
    }

    /// Of the device, as far as its driver says.
    pub(crate) fn own_memory(&self) -> Memory {
        Memory::Own { bytes: self.memory_bytes }
    }

    pub(crate) fn buffers(&self) -> BufferBytes {
        let usage = self.client.memory_usage().ok();
        usage.map_or_else(BufferBytes::default, |usage| BufferBytes {
            used: usage.bytes_in_use as usize,
            held: usage.bytes_reserved as usize,
        })
    }

    pub(crate) fn release_unused(&self) {
        self.client.memory_cleanup();
    }

    /// The most that buffers take while `work` is done, as the operations see it. What the runtime holds says little: it takes memory in
    /// pages of up to a quarter of all.
    pub(crate) fn peak(&self, work: &mut dyn FnMut()) -> usize {
        let peak = || self.peak.lock().unwrap_or_else(PoisonError::into_inner);
        *peak() = Some(self.buffers().used);
        work();
        peak().take().unwrap_or(0)
    }

    /// For [`peak`](Self::peak): to be called where an operation has all its buffers.
    pub(crate) fn note_buffers(&self) {
        if let Some(peak) = &mut *self.peak.lock().unwrap_or_else(PoisonError::into_inner) {
            *peak = self.buffers().used.max(*peak);
        }
    }
}

/// Lets all threads of the process hand their work to one queue of a device. By itself the runtime has a queue for each thread, and where several
/// threads shared a device, as tests do, a norm was read too small at times. What trains and embeds here is one thread.
fn compute_in_one_order() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let streaming = StreamingConfig { max_streams: 1, ..StreamingConfig::default() };
        CubeClRuntimeConfig::set(CubeClRuntimeConfig { streaming, ..CubeClRuntimeConfig::default() });
    });
}

/// NVIDIA's GPU of this number.
///
/// # Errors
/// Where there is none, or no driver.
#[cfg(feature = "cuda")]
pub fn cuda(index: usize) -> Result<Gpu<Cuda>, Unavailable> {
    let gpu = Gpu::open(burn_cuda::CudaDevice::new(index))?;
    // CubeCL's largest page is a quarter of all memory.
    let memory_bytes = Some(4 * gpu.client.properties().memory.max_page_size);
    Ok(Gpu { memory_bytes, ..gpu })
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

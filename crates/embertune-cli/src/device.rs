//! The device that a command computes on: `--device`, what of it this build has, and the one place where its type is chosen. The library is
//! generic over it.

use std::fmt;
use std::str::FromStr;

use embertune::comm::{Communicator, all_or_none};
use embertune::device::{Emulation, Precision, cpu};
use embertune::progress::Progress;
#[cfg(any(feature = "cuda", feature = "rocm", feature = "vulkan", feature = "metal"))]
use embertune::train::memory::shown;
use embertune::{Error, Result};
#[cfg(any(feature = "cuda", feature = "rocm", feature = "vulkan", feature = "metal"))]
use embertune_gpu::Products;
use embertune_kernels::cpu::Cpu;
use embertune_kernels::search::SearchDevice;

use crate::args::MachineArgs;

/// A kind of device, by the feature that a build needs for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Cuda,
    Rocm,
    Vulkan,
    Metal,
}

/// What the user asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Choice {
    /// A GPU where there is one, else the CPU.
    #[default]
    Auto,
    Cpu,
    /// A GPU, and which of several.
    Gpu(Kind, Option<usize>),
}

impl Kind {
    const ALL: [(&str, Kind); 4] =
        [("cuda", Kind::Cuda), ("rocm", Kind::Rocm), ("vulkan", Kind::Vulkan), ("metal", Kind::Metal)];

    fn name(self) -> &'static str {
        Self::ALL.iter().find(|(_, kind)| *kind == self).map_or("", |(name, _)| name)
    }
}

impl FromStr for Choice {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let unknown = || "expected auto, cpu, cuda, rocm, vulkan or metal; cuda:1 is the second GPU".to_string();
        let (name, number) = match text.split_once(':') {
            Some((name, number)) => (name, Some(number.parse().map_err(|_| unknown())?)),
            None => (text, None),
        };
        match (name, number) {
            ("auto", None) => Ok(Choice::Auto),
            ("cpu", None) => Ok(Choice::Cpu),
            _ => {
                let kind = Kind::ALL.iter().find(|(known, _)| *known == name).ok_or_else(unknown)?.1;
                Ok(Choice::Gpu(kind, number))
            }
        }
    }
}

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Choice::Auto => f.write_str("auto"),
            Choice::Cpu => f.write_str("cpu"),
            Choice::Gpu(kind, None) => f.write_str(kind.name()),
            Choice::Gpu(kind, Some(number)) => write!(f, "{}:{number}", kind.name()),
        }
    }
}

/// A device, ready to compute. [`on_device`] is the way to it.
pub enum Device {
    Cpu(Cpu),
    #[cfg(feature = "cuda")]
    Cuda(embertune_gpu::Gpu<embertune_gpu::Cuda>),
    #[cfg(feature = "rocm")]
    Rocm(embertune_gpu::Gpu<embertune_gpu::Rocm>),
    #[cfg(any(feature = "vulkan", feature = "metal"))]
    Wgpu(embertune_gpu::Gpu<embertune_gpu::Wgpu>),
}

/// Does the work with the operations of a [`Device`], whatever their type is.
macro_rules! on_device {
    ($device:expr, |$ops:ident| $work:expr) => {
        match $device {
            $crate::device::Device::Cpu($ops) => $work,
            #[cfg(feature = "cuda")]
            $crate::device::Device::Cuda($ops) => $work,
            #[cfg(feature = "rocm")]
            $crate::device::Device::Rocm($ops) => $work,
            #[cfg(any(feature = "vulkan", feature = "metal"))]
            $crate::device::Device::Wgpu($ops) => $work,
        }
    };
}
pub(crate) use on_device;

impl Device {
    /// The device that the flags ask for, multiplying in `precision`. Several ranks on a machine take its GPUs in turns, unless the flags say
    /// which.
    ///
    /// # Errors
    /// A device that this build or this machine does not have, or a precision that the device does not have; those of other ranks.
    pub fn open(
        args: &MachineArgs,
        precision: Precision,
        ranks: &dyn Communicator,
        progress: &dyn Progress,
    ) -> Result<Device> {
        let local_rank = (ranks.n_on_host() > 1).then(|| ranks.local_rank());
        all_or_none(ranks, Self::of_rank(args, precision, local_rank, progress))
    }

    fn of_rank(
        args: &MachineArgs,
        precision: Precision,
        local_rank: Option<usize>,
        progress: &dyn Progress,
    ) -> Result<Device> {
        let asked = (precision, args.emulation());
        let gpu = match args.device {
            Choice::Cpu => None,
            Choice::Auto => any_gpu(local_rank, asked),
            Choice::Gpu(kind, None) => {
                Some((kind, gpu_of(local_rank, |number| open(kind, number, asked), Device::n_gpus)?))
            }
            Choice::Gpu(kind, number) => Some((kind, open(kind, number, asked)?)),
        };
        match gpu {
            Some((kind, device)) => {
                progress.note(&format!("computing on a GPU, by {}", kind.name()));
                Ok(device)
            }
            None => Ok(Device::Cpu(cpu(precision, args.emulation())?)),
        }
    }

    /// What searches on it, where it is a GPU.
    pub fn searching(&self) -> Option<Box<dyn SearchDevice>> {
        match self {
            Device::Cpu(_) => None,
            #[cfg(feature = "cuda")]
            Device::Cuda(gpu) => Some(Box::new(gpu.clone())),
            #[cfg(feature = "rocm")]
            Device::Rocm(gpu) => Some(Box::new(gpu.clone())),
            #[cfg(any(feature = "vulkan", feature = "metal"))]
            Device::Wgpu(gpu) => Some(Box::new(gpu.clone())),
        }
    }

    /// GPUs of its kind that this process sees.
    fn n_gpus(&self) -> usize {
        match self {
            Device::Cpu(_) => 0,
            #[cfg(feature = "cuda")]
            Device::Cuda(gpu) => gpu.n_devices(),
            #[cfg(feature = "rocm")]
            Device::Rocm(gpu) => gpu.n_devices(),
            #[cfg(any(feature = "vulkan", feature = "metal"))]
            Device::Wgpu(gpu) => gpu.n_devices(),
        }
    }

    /// How it multiplies.
    pub fn precision(&self) -> Precision {
        let multiplies_bf16 = on_device!(self, |ops| ops.multiplies_bf16());
        if multiplies_bf16 { Precision::Bf16 } else { Precision::Fp32 }
    }
}

/// The GPU of a process: the first that `open` finds; of several ranks on a machine, the one whose number is that of the rank. Where there are
/// fewer, ranks take them in turns, which is also right where each rank sees a GPU of its own alone, as `srun --gpus-per-task 1` has it.
fn gpu_of<D>(
    local_rank: Option<usize>,
    open: impl Fn(Option<usize>) -> Result<D>,
    n_gpus: impl Fn(&D) -> usize,
) -> Result<D> {
    let Some(rank) = local_rank else { return open(None) };
    // The own one first: whoever opens another takes some of its memory.
    open(Some(rank)).or_else(|_| {
        let first = open(None)?;
        match rank % n_gpus(&first).max(1) {
            0 => Ok(first),
            // Not all that are seen are of the kind that is opened by its number.
            number => Ok(open(Some(number)).unwrap_or(first)),
        }
    })
}

/// The first kind of GPU of this build that works, in the precision that is asked for. A processor that plays a GPU is none: the CPU's own kernels
/// are faster.
fn any_gpu(local_rank: Option<usize>, (precision, _): (Precision, Emulation)) -> Option<(Kind, Device)> {
    let asked = (precision, Emulation::Refused);
    let open = |kind| gpu_of(local_rank, |number| open(kind, number, asked), Device::n_gpus);
    let devices = Kind::ALL.iter().filter_map(|&(_, kind)| Some((kind, open(kind).ok()?)));
    devices.into_iter().find(|(_, device)| match device {
        #[cfg(any(feature = "vulkan", feature = "metal"))]
        Device::Wgpu(gpu) => !gpu.is_software(),
        _ => true,
    })
}

/// [`Precision::Auto`] is f32 on a GPU.
fn open(kind: Kind, number: Option<usize>, _asked: (Precision, Emulation)) -> Result<Device> {
    let name = Choice::Gpu(kind, number);
    #[cfg(any(feature = "cuda", feature = "rocm", feature = "vulkan", feature = "metal"))]
    let failed = |error: embertune_gpu::Unavailable| Error::Setting {
        problem: format!("`--device {name}`: no such device works here: {error}"),
        hint: Some(format!("{}; or use `--device cpu`", needed(kind))),
    };
    #[cfg(any(feature = "cuda", feature = "rocm", feature = "vulkan", feature = "metal"))]
    let choices: &[Products] = match _asked {
        (Precision::Auto | Precision::Fp32, _) => &[Products::F32],
        (Precision::Bf16, Emulation::Refused) => &[Products::Bf16],
        (Precision::Bf16, Emulation::Allowed) => &[Products::Bf16, Products::Bf16Emulated],
    };
    #[cfg(any(feature = "cuda", feature = "rocm", feature = "vulkan", feature = "metal"))]
    let without_bf16 = || Error::Setting {
        problem: format!("`--precision bf16` with `--device {name}`: this GPU, or its driver, does not have bf16"),
        hint: Some("use `--precision fp32`, or `--allow_emulation` for the same numbers, slower than in f32".into()),
    };
    match kind {
        #[cfg(feature = "cuda")]
        Kind::Cuda => {
            let gpu = embertune_gpu::cuda(number.unwrap_or(0)).map_err(failed)?.multiplying(choices);
            gpu.map(Device::Cuda).ok_or_else(without_bf16)
        }
        #[cfg(feature = "rocm")]
        Kind::Rocm => {
            let gpu = embertune_gpu::rocm(number.unwrap_or(0)).map_err(failed)?.multiplying(choices);
            gpu.map(Device::Rocm).ok_or_else(without_bf16)
        }
        #[cfg(feature = "vulkan")]
        Kind::Vulkan => {
            let gpu = embertune_gpu::wgpu(number).map_err(failed)?.multiplying(choices);
            gpu.map(Device::Wgpu).ok_or_else(without_bf16)
        }
        #[cfg(feature = "metal")]
        Kind::Metal => {
            let gpu = embertune_gpu::wgpu(number).map_err(failed)?.multiplying(choices);
            gpu.map(Device::Wgpu).ok_or_else(without_bf16)
        }
        #[allow(unreachable_patterns)]
        _ => Err(Error::Setting {
            problem: format!("`--device {name}`: this build has no support for it"),
            hint: Some(format!(
                "build with `cargo build --release -p embertune-cli --features {}`, or use `--device cpu`",
                kind.name()
            )),
        }),
    }
}

/// Does the work of a command; where a GPU fails in the midst of it, that is an error like others.
pub fn watched<T>(work: impl FnOnce() -> Result<T>) -> Result<T> {
    #[cfg(any(feature = "cuda", feature = "rocm", feature = "vulkan", feature = "metal"))]
    {
        use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
        catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
            let failed = panic.downcast::<embertune_gpu::Unavailable>().map(|failed| *failed);
            // What was not read back may have failed as well.
            let failed = failed.or_else(|other| embertune_gpu::take_failure().ok_or(other));
            Err(failure(&failed.unwrap_or_else(|other| resume_unwind(other))))
        })
    }
    #[cfg(not(any(feature = "cuda", feature = "rocm", feature = "vulkan", feature = "metal")))]
    work()
}

/// The part of the memory that a GPU turned out to have which is advised as a budget: the runtime takes memory in pages, which are never quite full.
#[cfg(any(feature = "cuda", feature = "rocm", feature = "vulkan", feature = "metal"))]
const ADVISED_PERCENT: u64 = 60;

/// What a GPU that fails in the midst of work is to the user.
#[cfg(any(feature = "cuda", feature = "rocm", feature = "vulkan", feature = "metal"))]
fn failure(failed: &embertune_gpu::Unavailable) -> Error {
    let Some(bytes) = failed.full_at_bytes else {
        return Error::Setting {
            problem: format!("the GPU failed: {failed}"),
            hint: Some("use `--device cpu`; a training goes on with `--resume_from_checkpoint`".into()),
        };
    };
    let bytes = bytes as u64;
    Error::Setting {
        problem: format!("the GPU's memory is full: its buffers took {} when more was wanted", shown(bytes)),
        hint: Some(format!(
            "a training fits with `--memory_budget {}MB`, which computes activations twice where it has to, and goes on with \
             `--resume_from_checkpoint`; other commands take a smaller `--batch_size`; or use `--device cpu`",
            (bytes * ADVISED_PERCENT / 100).div_ceil(1_000_000)
        )),
    }
}

/// What a kind of device needs on the machine.
#[cfg(any(feature = "cuda", feature = "rocm", feature = "vulkan", feature = "metal"))]
fn needed(kind: Kind) -> &'static str {
    match kind {
        Kind::Cuda => {
            "it takes NVIDIA's driver (`nvidia-smi` lists the GPUs) and CUDA's NVRTC library with its headers"
        }
        Kind::Rocm => "it takes AMD's driver and ROCm (`rocminfo` lists the GPUs)",
        Kind::Vulkan => "it takes a Vulkan driver (`vulkaninfo --summary` lists the devices)",
        Kind::Metal => "it takes a Mac",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_devices_are_read_and_written_alike() {
        for name in ["auto", "cpu", "cuda", "cuda:1", "rocm", "vulkan:0", "metal"] {
            assert_eq!(name.parse::<Choice>().unwrap().to_string(), name);
        }
        for wrong in ["gpu", "cpu:0", "cuda:", "cuda:-1", "auto:1", ""] {
            assert!(wrong.parse::<Choice>().is_err(), "{wrong}");
        }
    }

    /// The GPU of each of `n_ranks` on a machine with `n_gpus`.
    fn of_ranks(n_ranks: usize, n_gpus: usize) -> Vec<Option<usize>> {
        let open = |number: Option<usize>| match number.unwrap_or(0) {
            number if number < n_gpus => Ok(number),
            number => Err(Error::Setting { problem: format!("no GPU {number}"), hint: None }),
        };
        (0..n_ranks).map(|rank| gpu_of(Some(rank), open, |_| n_gpus).ok()).collect()
    }

    #[test]
    fn each_rank_of_a_machine_has_a_gpu_of_its_own_as_long_as_there_are_some() {
        assert_eq!(of_ranks(4, 4), [Some(0), Some(1), Some(2), Some(3)]);
        assert_eq!(of_ranks(2, 8), [Some(0), Some(1)]);
        assert_eq!(of_ranks(5, 2), [Some(0), Some(1), Some(0), Some(1), Some(0)]);
        // Each sees its own alone, or the machine has none.
        assert_eq!(of_ranks(3, 1), [Some(0), Some(0), Some(0)]);
        assert_eq!(of_ranks(2, 0), [None, None]);
        // A rank that has its machine for itself takes the fastest GPU, whatever its number.
        assert_eq!(gpu_of(None, Ok, |_| 4).unwrap(), None);
    }

    #[cfg(not(any(feature = "cuda", feature = "rocm", feature = "vulkan", feature = "metal")))]
    #[test]
    fn a_build_without_gpus_says_how_to_build_one_with_them() {
        let asked = (Precision::Auto, Emulation::Refused);
        let error = open(Kind::Cuda, Some(1), asked).err().expect("an error");
        assert!(error.to_string().contains("`--device cuda:1`"), "{error}");
        assert!(error.hint().unwrap().contains("--features cuda"));
        assert!(any_gpu(None, asked).is_none() && any_gpu(Some(1), asked).is_none());
    }
}

//! Every operation on a GPU against `Reference<f64>`, over the grid of sizes that the CPU is checked on.

use embertune_gpu::Products;
use embertune_kernels::reference::Reference;

use crate::device::{Device, device};
use crate::scenarios::{self, Check, Scenario, assert_agree};

/// Allowed error relative to the largest element of a tensor, as for the CPU, with room for the exponentials and logarithms of a GPU, which
/// Vulkan allows to be off by several units in the last place.
const SCALE_TOLERANCE: f64 = 5e-6;
/// Allowed error relative to the element itself.
const REL_TOLERANCE: f64 = 2e-5;

/// Allowed error where products multiply bf16, relative to the largest element of a tensor: that of the CPU.
const BF16_TOLERANCE: f64 = 1.5e-2;

/// A device, and the error that it is allowed relative to the largest element of a tensor.
struct OnGpu(Device, f64);

impl Check for OnGpu {
    fn run(&self, what: &str, scenario: &impl Scenario) {
        let expected = scenario.run(&Reference::<f64>::new());
        assert_agree(what, &scenario.run(&self.0), &expected, self.1, REL_TOLERANCE);
    }
}

/// Devices that multiply bf16: the opened one, where it can, and the one that rounds as bf16 does.
fn in_bf16(gpu: &Device) -> impl Iterator<Item = OnGpu> {
    let native = gpu.clone().multiplying(&[Products::Bf16]);
    if native.is_none() {
        eprintln!("SKIPPED: this GPU does not multiply bf16; what rounds its factors is checked");
    }
    let both = [native, gpu.clone().multiplying(&[Products::Bf16Emulated])];
    both.into_iter().flatten().map(|gpu| OnGpu(gpu, BF16_TOLERANCE))
}

#[test]
fn linear_agrees_on_the_gpu() {
    if let Some(gpu) = device() {
        scenarios::linear_agrees(&OnGpu(gpu.clone(), SCALE_TOLERANCE));
    }
}

#[test]
fn feed_forward_agrees_on_the_gpu() {
    if let Some(gpu) = device() {
        scenarios::feed_forward_agrees(&OnGpu(gpu.clone(), SCALE_TOLERANCE));
    }
}

#[test]
fn activations_agree_on_the_gpu() {
    if let Some(gpu) = device() {
        scenarios::activations_agree(&OnGpu(gpu.clone(), SCALE_TOLERANCE));
    }
}

#[test]
fn dropout_and_layer_norm_agree_on_the_gpu() {
    if let Some(gpu) = device() {
        scenarios::dropout_and_layer_norm_agree(&OnGpu(gpu.clone(), SCALE_TOLERANCE));
    }
}

#[test]
fn attention_agrees_on_the_gpu() {
    if let Some(gpu) = device() {
        scenarios::attention_agrees(&OnGpu(gpu.clone(), SCALE_TOLERANCE));
    }
}

#[test]
fn embeddings_agree_on_the_gpu() {
    if let Some(gpu) = device() {
        scenarios::embeddings_agree(&OnGpu(gpu.clone(), SCALE_TOLERANCE));
    }
}

#[test]
fn poolings_agree_on_the_gpu() {
    if let Some(gpu) = device() {
        scenarios::poolings_agree(&OnGpu(gpu.clone(), SCALE_TOLERANCE));
    }
}

#[test]
fn normalize_agrees_on_the_gpu() {
    if let Some(gpu) = device() {
        scenarios::normalize_agrees(&OnGpu(gpu.clone(), SCALE_TOLERANCE));
    }
}

#[test]
fn elementwise_passes_and_adamw_agree_on_the_gpu() {
    if let Some(gpu) = device() {
        scenarios::elementwise_passes_and_adamw_agree(&OnGpu(gpu.clone(), SCALE_TOLERANCE));
    }
}

#[test]
fn columns_agree_on_the_gpu() {
    if let Some(gpu) = device() {
        scenarios::columns_agree(&OnGpu(gpu.clone(), SCALE_TOLERANCE));
    }
}

#[test]
fn adafactor_agrees_on_the_gpu() {
    if let Some(gpu) = device() {
        scenarios::adafactor_agrees(&OnGpu(gpu.clone(), SCALE_TOLERANCE));
    }
}

/// Not the feed-forward block: what is rounded before a ReLU has another slope where it changes sign.
#[test]
fn products_of_bf16_agree_on_the_gpu() {
    let Some(gpu) = device() else { return };
    for gpu in in_bf16(gpu) {
        scenarios::linear_agrees(&gpu);
        scenarios::attention_agrees(&gpu);
    }
}

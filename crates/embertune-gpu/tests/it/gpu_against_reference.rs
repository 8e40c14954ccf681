//! Every operation on a GPU against `Reference<f64>`, over the grid of sizes that the CPU is checked on.

use embertune_kernels::reference::Reference;

use crate::device::{Device, device};
use crate::scenarios::{self, Check, Scenario, assert_agree};

/// Allowed error relative to the largest element of a tensor, as for the CPU, with room for the exponentials and logarithms of a GPU, which
/// Vulkan allows to be off by several units in the last place.
const SCALE_TOLERANCE: f64 = 5e-6;
/// Allowed error relative to the element itself.
const REL_TOLERANCE: f64 = 2e-5;

struct OnGpu(&'static Device);

impl Check for OnGpu {
    fn run(&self, what: &str, scenario: &impl Scenario) {
        let expected = scenario.run(&Reference::<f64>::new());
        assert_agree(what, &scenario.run(self.0), &expected, SCALE_TOLERANCE, REL_TOLERANCE);
    }
}

#[test]
fn linear_agrees_on_the_gpu() {
    if let Some(gpu) = device() {
        scenarios::linear_agrees(&OnGpu(gpu));
    }
}

#[test]
fn feed_forward_agrees_on_the_gpu() {
    if let Some(gpu) = device() {
        scenarios::feed_forward_agrees(&OnGpu(gpu));
    }
}

#[test]
fn activations_agree_on_the_gpu() {
    if let Some(gpu) = device() {
        scenarios::activations_agree(&OnGpu(gpu));
    }
}

#[test]
fn dropout_and_layer_norm_agree_on_the_gpu() {
    if let Some(gpu) = device() {
        scenarios::dropout_and_layer_norm_agree(&OnGpu(gpu));
    }
}

#[test]
fn attention_agrees_on_the_gpu() {
    if let Some(gpu) = device() {
        scenarios::attention_agrees(&OnGpu(gpu));
    }
}

#[test]
fn embeddings_agree_on_the_gpu() {
    if let Some(gpu) = device() {
        scenarios::embeddings_agree(&OnGpu(gpu));
    }
}

#[test]
fn poolings_agree_on_the_gpu() {
    if let Some(gpu) = device() {
        scenarios::poolings_agree(&OnGpu(gpu));
    }
}

#[test]
fn normalize_agrees_on_the_gpu() {
    if let Some(gpu) = device() {
        scenarios::normalize_agrees(&OnGpu(gpu));
    }
}

#[test]
fn elementwise_passes_and_adamw_agree_on_the_gpu() {
    if let Some(gpu) = device() {
        scenarios::elementwise_passes_and_adamw_agree(&OnGpu(gpu));
    }
}

#[test]
fn columns_agree_on_the_gpu() {
    if let Some(gpu) = device() {
        scenarios::columns_agree(&OnGpu(gpu));
    }
}

#[test]
fn adafactor_agrees_on_the_gpu() {
    if let Some(gpu) = device() {
        scenarios::adafactor_agrees(&OnGpu(gpu));
    }
}

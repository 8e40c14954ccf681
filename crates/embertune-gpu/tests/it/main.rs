//! Tests on a GPU: the operations against the reference, gradients and training runs against PyTorch. They say `SKIPPED` where there is no
//! device. Run them with `-- on_the_gpu`: the modules that are shared with the library's own tests bring those on the CPU along.
#![cfg(any(feature = "cuda", feature = "rocm", feature = "vulkan", feature = "metal"))]

mod device;
#[path = "../../../embertune/tests/it/golden.rs"]
mod golden;
mod gpu_against_reference;
#[path = "../../../embertune/tests/it/gradients.rs"]
mod gradients;
// Not all of it is needed here.
#[allow(dead_code)]
#[path = "../../../embertune/tests/it/models.rs"]
mod models;
mod models_on_the_gpu;
#[path = "../../../embertune-kernels/tests/it/scenarios.rs"]
mod scenarios;
mod search_on_the_gpu;
#[path = "../../../embertune/tests/it/trajectory.rs"]
mod trajectory;

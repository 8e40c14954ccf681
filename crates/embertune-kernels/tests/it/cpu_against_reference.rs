//! Every operation of `Cpu` against `Reference<f64>`: over a grid of sizes, for every instruction set of this machine,
//! and bitwise equal for 1, 2 and 4 threads.

use std::sync::LazyLock;

use embertune_kernels::cpu::{Cpu, Isa};
use embertune_kernels::reference::Reference;
use rayon::{ThreadPool, ThreadPoolBuilder};

use crate::scenarios::{self, Check, Results, Scenario, assert_agree};

/// Allowed error relative to the largest element of a tensor: sums of thousands of terms in f32 keep it, terms that
/// cancel do not matter.
const SCALE_TOLERANCE: f64 = 1e-6;
/// Allowed error relative to the element itself.
const REL_TOLERANCE: f64 = 1e-5;

static POOLS: LazyLock<Vec<ThreadPool>> = LazyLock::new(|| {
    let pool = |n| ThreadPoolBuilder::new().num_threads(n).build().expect("a thread pool");
    [1, 2, 4].map(pool).into()
});

/// Allowed error where products multiply bf16, relative to the largest element of a tensor: each factor is off by up to 1/512. Measured: 1.11e-2 (2026-11-29).
const BF16_TOLERANCE: f64 = 1.5e-2;

/// `Cpu` against the reference.
struct AllInstructionSets;

/// `Cpu` in bf16 against the reference.
struct InBf16;

impl Check for InBf16 {
    fn run(&self, what: &str, scenario: &impl Scenario) {
        let expected = scenario.run(&Reference::<f64>::new());
        for cpu in [Cpu::bf16(), Some(Cpu::bf16_emulated())].into_iter().flatten() {
            check_on_threads(what, scenario, &cpu, &expected, BF16_TOLERANCE);
        }
    }
}

/// Compares the results on one thread with what is expected, and those on more with them, bit for bit.
fn check_on_threads(what: &str, scenario: &impl Scenario, cpu: &Cpu, expected: &Results, scale_tolerance: f64) {
    // Two runs on the first pool: the second takes used buffers.
    POOLS[0].install(|| scenario.run(cpu));
    let results: Vec<Results> = POOLS.iter().map(|pool| pool.install(|| scenario.run(cpu))).collect();
    assert_agree(what, &results[0], expected, scale_tolerance, REL_TOLERANCE);
    for threads in &results[1..] {
        for ((name, one), (_, several)) in results[0].iter().zip(threads) {
            let same = one.iter().zip(several).all(|(a, b)| a.to_bits() == b.to_bits());
            assert!(same && one.len() == several.len(), "{what}: {name} depends on the number of threads");
        }
    }
}

impl Check for AllInstructionSets {
    fn run(&self, what: &str, scenario: &impl Scenario) {
        let expected = scenario.run(&Reference::<f64>::new());
        for isa in Isa::ALL {
            let Some(cpu) = Cpu::with_isa(isa) else {
                eprintln!("SKIPPED: {isa} is not on this machine");
                continue;
            };
            check_on_threads(&format!("{what}, {isa}"), scenario, &cpu, &expected, SCALE_TOLERANCE);
        }
    }
}

#[test]
fn linear_agrees() {
    scenarios::linear_agrees(&AllInstructionSets);
}

#[test]
fn feed_forward_agrees() {
    scenarios::feed_forward_agrees(&AllInstructionSets);
}

#[test]
fn activations_agree() {
    scenarios::activations_agree(&AllInstructionSets);
}

#[test]
fn dropout_and_layer_norm_agree() {
    scenarios::dropout_and_layer_norm_agree(&AllInstructionSets);
}

#[test]
fn attention_agrees() {
    scenarios::attention_agrees(&AllInstructionSets);
}

#[test]
fn attention_in_bf16_agrees() {
    scenarios::attention_agrees(&InBf16);
}

#[test]
fn embeddings_agree() {
    scenarios::embeddings_agree(&AllInstructionSets);
}

#[test]
fn poolings_agree() {
    scenarios::poolings_agree(&AllInstructionSets);
}

#[test]
fn normalize_agrees() {
    scenarios::normalize_agrees(&AllInstructionSets);
}

#[test]
fn elementwise_passes_and_adamw_agree() {
    scenarios::elementwise_passes_and_adamw_agree(&AllInstructionSets);
}

#[test]
fn columns_agree() {
    scenarios::columns_agree(&AllInstructionSets);
}

#[test]
fn adafactor_agrees() {
    scenarios::adafactor_agrees(&AllInstructionSets);
}

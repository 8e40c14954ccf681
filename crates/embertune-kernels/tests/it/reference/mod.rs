//! `Reference<f64>`: every backward against central differences of its forward, every forward against known values.

mod activation;
mod adamw;
mod attention;
mod columns;
mod dropout;
mod embedding;
mod layer_norm;
mod linear;
mod normalize;
mod pool;
mod precision;

use embertune_kernels::dropout::Dropout;
use embertune_kernels::reference::Reference;

const OPS: Reference<f64> = Reference::new();

/// Agreement with values that PyTorch printed in float64.
const TORCH: f64 = 1e-13;

/// What parameter gradients hold before a backward adds to them.
const BEFORE: f64 = 0.25;

/// The gradient of `len` parameters that other backwards have added to already.
fn begun(len: usize) -> Vec<f64> {
    vec![BEFORE; len]
}

/// What a backward has added to a gradient from [`begun`].
fn added(gradient: &[f64]) -> Vec<f64> {
    gradient.iter().map(|sum| sum - BEFORE).collect()
}

/// Without dropout, with a usual one, and with one that drops whole rows of small inputs.
fn dropouts() -> [Option<Dropout>; 3] {
    [None, Some(Dropout { p: 0.1, site: 3 }), Some(Dropout { p: 0.6, site: 4 })]
}

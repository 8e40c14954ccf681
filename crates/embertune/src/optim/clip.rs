//! The global gradient norm and the factor that bounds it, as `torch.nn.utils.clip_grad_norm_`.

use embertune_kernels::Ops;

use crate::model::Gradients;

/// The L2 norm of all gradients together, accumulated in f64 (torch's own f32 norm is up to 7e-5 too small on tensors of
/// millions of values).
pub fn global_norm<O: Ops>(ops: &O, gradients: &Gradients<O>) -> f64 {
    ops.squared_norms(&gradients.list.iter().collect::<Vec<_>>()).iter().sum::<f64>().sqrt()
}

/// The factor on every gradient that brings a norm of `norm` down to `max_norm`: `min(1, max_norm / (norm + 1e-6))`.
/// A `max_norm` of 0 clips nothing, as in Hugging Face's Trainer.
pub fn clip_coefficient(norm: f64, max_norm: f64) -> f64 {
    if max_norm > 0.0 { (max_norm / (norm + 1e-6)).min(1.0) } else { 1.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_norms_above_the_bound_are_scaled_down() {
        assert_eq!(clip_coefficient(0.5, 1.0), 1.0);
        assert_eq!(clip_coefficient(4.0, 1.0), 1.0 / (4.0 + 1e-6));
        assert_eq!(clip_coefficient(4.0, 0.0), 1.0);
    }
}

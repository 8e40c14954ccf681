//! A temperature that is learnt with the model: one more parameter, its logarithm, with Adam moments of its own.
//!
//! As in CLIP it does not fall below 0.01. It is no part of the model that is saved: similarities are compared, not divided.

use serde::{Deserialize, Serialize};

use crate::optim::AdamWSettings;

/// CLIP's bound on the scale, 100.
const SMALLEST: f64 = 0.01;

/// The temperature and its optimizer's state.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct LearnedTemperature {
    /// `T`.
    pub value: f64,
    first_moment: f64,
    second_moment: f64,
    n_steps: i32,
}

impl LearnedTemperature {
    /// Starts at `value`.
    pub fn new(value: f64) -> Self {
        LearnedTemperature { value, first_moment: 0.0, second_moment: 0.0, n_steps: 0 }
    }

    /// A step of Adam on the logarithm, whose gradient is `d_log`; nothing decays, and nothing is clipped.
    pub fn step(&mut self, d_log: f64, learning_rate: f64, adam: AdamWSettings) {
        let AdamWSettings { beta1, beta2, eps, .. } = adam;
        self.n_steps += 1;
        self.first_moment = beta1 * self.first_moment + (1.0 - beta1) * d_log;
        self.second_moment = beta2 * self.second_moment + (1.0 - beta2) * d_log * d_log;
        let mean = self.first_moment / (1.0 - beta1.powi(self.n_steps));
        let size = (self.second_moment / (1.0 - beta2.powi(self.n_steps))).sqrt();
        self.value = (self.value * (-learning_rate * mean / (size + eps)).exp()).max(SMALLEST.min(self.value));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_goes_against_the_gradient_by_the_learning_rate_and_not_below_the_bound() {
        let adam = AdamWSettings { beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.0 };
        let mut temperature = LearnedTemperature::new(0.05);
        temperature.step(3.0, 0.1, adam);
        // Adam's first step is the learning rate, whatever the gradient.
        assert!((temperature.value - 0.05 * (-0.1_f64).exp()).abs() < 1e-9, "{temperature:?}");
        (0..100).for_each(|_| temperature.step(3.0, 0.1, adam));
        assert_eq!(temperature.value, SMALLEST);
        let mut lower = LearnedTemperature::new(0.005);
        lower.step(3.0, 0.1, adam);
        assert_eq!(lower.value, 0.005, "a start below the bound is kept");
        lower.step(-90.0, 0.1, adam);
        assert!(lower.value > 0.005);
    }
}

//! Adafactor without a first moment and with learning rates from outside: `transformers.Adafactor` with `scale_parameter` and
//! `relative_step` off, which is `--optim adafactor` there (Shazeer and Stern 2018, arXiv:1804.04235).
//!
//! Of a matrix it keeps one number for each row and each column instead of two for each element. Query, key and value are one tensor
//! here and three there, so they are factored and clipped each by itself.

use embertune_kernels::Ops;
use embertune_kernels::ops::AdafactorStep;

use super::state::State;
use crate::model::{Gradients, Param, Parameters};

/// The second moment is forgotten as `1 - t^-0.8`.
const DECAY_EXPONENT: f64 = -0.8;
/// Added to the square of the gradient.
const EPS: f32 = 1e-30;
/// The greatest root of the mean square of a tensor's update, in learning rates.
const CLIP_THRESHOLD: f32 = 1.0;

/// The second moments of every trained tensor, on the device.
pub struct Adafactor<O: Ops> {
    weight_decay: f64,
    /// Of the rows of matrices, of the elements of vectors.
    pub(super) rows: State<O>,
    /// Of the columns of matrices.
    pub(super) columns: State<O>,
    pub(super) steps_done: u64,
}

/// Rows and columns of the tensors of the checkpoint that `param` holds; `None` of vectors.
fn matrix<O: Ops>(param: &Param<O>) -> Option<(usize, usize)> {
    match param.parts[0].shape[..] {
        [rows, columns] => Some((rows, columns)),
        _ => None,
    }
}

impl<O: Ops> Adafactor<O> {
    /// Zero moments for every trained tensor of `parameters`.
    pub fn new(ops: &O, parameters: &Parameters<O>, weight_decay: f64) -> Self {
        let zeros = |len: &dyn Fn(&Param<O>) -> usize| {
            let len = |param: &Param<O>| if param.is_trained() { len(param) } else { 0 };
            parameters.list.iter().map(|param| ops.zeros(len(param))).collect()
        };
        let rows = zeros(&|param| matrix(param).map_or(param.n_values(), |(rows, _)| rows * param.parts.len()));
        let columns = zeros(&|param| matrix(param).map_or(0, |(_, columns)| columns * param.parts.len()));
        Adafactor {
            weight_decay,
            rows: State { suffix: "exp_avg_sq_row", list: rows },
            columns: State { suffix: "exp_avg_sq_col", list: columns },
            steps_done: 0,
        }
    }

    /// One step with learning rate `lr` on gradients scaled by `grad_scale`, and the matrices packed again.
    pub fn step(
        &mut self,
        ops: &O,
        parameters: &mut Parameters<O>,
        gradients: &Gradients<O>,
        lr: f64,
        grad_scale: f64,
    ) {
        assert_eq!(parameters.list.len(), gradients.list.len(), "tensors and gradients");
        self.steps_done += 1;
        let beta2 = 1.0 - (self.steps_done as f64).powf(DECAY_EXPONENT);
        let moments = self.rows.list.iter_mut().zip(&mut self.columns.list);
        let tensors = parameters.list.iter_mut().zip(&gradients.list).zip(moments);
        for ((param, g), (rows, columns)) in tensors.filter(|((param, _), _)| param.is_trained()) {
            let step = AdafactorStep {
                lr: (lr * param.rate) as f32,
                beta2,
                eps: EPS,
                clip_threshold: CLIP_THRESHOLD,
                weight_decay: if param.kind.decays() { self.weight_decay as f32 } else { 0.0 },
                grad_scale: grad_scale as f32,
                parts: param.parts.len(),
                matrix: matrix(param),
            };
            ops.adafactor_step(&mut param.value, g, rows, columns, step);
            param.repack(ops);
        }
    }
}

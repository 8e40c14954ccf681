//! One step of AdamW with decoupled decay (Loshchilov and Hutter 2019, arXiv:1711.05101), as `torch.optim.AdamW`.

use super::real::Real;
use crate::ops::AdamWStep;

/// Changes the weight `w` and its moments `m` and `v` by the gradient `g`; all of one length.
pub fn adamw_step<T: Real>(w: &mut [T], g: &[T], m: &mut [T], v: &mut [T], step: AdamWStep) {
    let n = w.len();
    assert_eq!((g.len(), m.len(), v.len()), (n, n, n), "lengths of g, m and v for a weight of {n}");
    let AdamWStep { beta1, beta2, .. } = step;
    let [lr, eps, decay] = [step.lr, step.eps, step.weight_decay].map(f64::from);
    let [correction1, correction2] = [step.bias_correction1, step.bias_correction2].map(f64::from);
    for i in 0..n {
        let grad = f64::from(step.grad_scale) * g[i].to_f64();
        let first = beta1 * m[i].to_f64() + (1.0 - beta1) * grad;
        let second = beta2 * v[i].to_f64() + (1.0 - beta2) * grad * grad;
        let decayed = w[i].to_f64() - lr * decay * w[i].to_f64();
        let update = lr / correction1 * first / ((second / correction2).sqrt() + eps);
        w[i] = T::from_f64(decayed - update);
        m[i] = T::from_f64(first);
        v[i] = T::from_f64(second);
    }
}

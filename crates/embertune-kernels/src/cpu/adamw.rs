//! One AdamW step over one tensor, in one pass over its four arrays.

use rayon::prelude::*;

use crate::cpu::Cpu;
use crate::cpu::elementwise::BLOCK;
use crate::cpu::isa::per_isa;
use crate::ops::AdamWStep;

pub(super) fn adamw_step(cpu: &Cpu, w: &mut [f32], g: &[f32], m: &mut [f32], v: &mut [f32], step: AdamWStep) {
    assert_eq!((g.len(), m.len(), v.len()), (w.len(), w.len(), w.len()), "lengths of g, m, v and w of AdamW");
    w.par_chunks_mut(BLOCK)
        .zip(g.par_chunks(BLOCK))
        .zip(m.par_chunks_mut(BLOCK).zip(v.par_chunks_mut(BLOCK)))
        .for_each(|((w, g), (m, v))| update(cpu.isa, w, g, m, v, step));
}

per_isa! {
    fn update<const FMA: bool>(w: &mut [f32], g: &[f32], m: &mut [f32], v: &mut [f32], step: AdamWStep) {
        let (beta1, beta2) = (step.beta1 as f32, step.beta2 as f32);
        let (share1, share2) = ((1.0 - step.beta1) as f32, (1.0 - step.beta2) as f32);
        let keep = 1.0 - step.lr * step.weight_decay;
        let step_size = step.lr / step.bias_correction1;
        let root_correction2 = step.bias_correction2.sqrt();
        for ((w, &g), (m, v)) in w.iter_mut().zip(g).zip(m.iter_mut().zip(v)) {
            let g = g * step.grad_scale;
            *m = beta1 * *m + share1 * g;
            *v = beta2 * *v + share2 * g * g;
            // sqrt(v / bc2) = sqrt(v) / sqrt(bc2), as torch computes it.
            *w = *w * keep - step_size * *m / (v.sqrt() / root_correction2 + step.eps);
        }
    }
}

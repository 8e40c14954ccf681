//! LayerNorm of a dropped-out input plus a residual. The formulas: `docs/math/layer_norm_backward.md`.

use super::dropout::factors;
use super::real::{Real, add_to, store};
use crate::dropout::Dropout;
use crate::ops::{Norm, NormSaved, Ragged};

/// `s = dropout(x) + residual; y = (s - mean(s)) / sqrt(var(s) + eps) * gamma + beta`, row by row of `width = len(gamma)`.
/// `x`, `residual`, `y`: `[n_tokens, width]`.
pub fn layer_norm_forward<T: Real>(
    x: &[T],
    residual: Option<&Vec<T>>,
    texts: Ragged<'_>,
    dropout: Option<Dropout>,
    norm: Norm<'_, Vec<T>>,
) -> (Vec<T>, NormSaved<Vec<T>>) {
    let width = norm.gamma.len();
    let n_tokens = texts.n_tokens();
    assert_eq!(norm.beta.len(), width, "beta of width {width}");
    assert_eq!(x.len(), n_tokens * width, "x of {n_tokens} tokens of width {width}");

    let mut s: Vec<f64> = x.iter().map(|&x| x.to_f64()).collect();
    if let Some(dropout) = dropout {
        s.iter_mut().zip(factors(texts, dropout, width)).for_each(|(s, factor)| *s *= factor);
    }
    if let Some(residual) = residual {
        assert_eq!(residual.len(), s.len(), "residual of {n_tokens} tokens of width {width}");
        s.iter_mut().zip(residual).for_each(|(s, &residual)| *s += residual.to_f64());
    }

    let mut y = vec![0.0; s.len()];
    let mut normed = vec![0.0; s.len()];
    let mut rstd = vec![0.0; n_tokens];
    for (token, rstd) in rstd.iter_mut().enumerate() {
        let row = token * width..(token + 1) * width;
        let mean = s[row.clone()].iter().sum::<f64>() / width as f64;
        let var = s[row.clone()].iter().map(|s| (s - mean) * (s - mean)).sum::<f64>() / width as f64;
        *rstd = 1.0 / (var + f64::from(norm.eps)).sqrt();
        for (c, i) in row.enumerate() {
            normed[i] = (s[i] - mean) * *rstd;
            y[i] = normed[i] * norm.gamma[c].to_f64() + norm.beta[c].to_f64();
        }
    }
    (store(y), NormSaved { normed: store(normed), rstd: store(rstd) })
}

/// `y` of the forward again.
pub fn layer_norm_output<T: Real>(saved: &NormSaved<Vec<T>>, norm: Norm<'_, Vec<T>>) -> Vec<T> {
    let parameters = norm.gamma.iter().zip(norm.beta).cycle();
    let y = saved.normed.iter().zip(parameters);
    store(y.map(|(normed, (gamma, beta))| normed.to_f64() * gamma.to_f64() + beta.to_f64()).collect())
}

/// Returns `d_s`: `[n_tokens, width]`; adds to `d_gamma` and `d_beta`: `[width]`.
pub fn layer_norm_backward<T: Real>(
    d_y: &[T],
    saved: &NormSaved<Vec<T>>,
    norm: Norm<'_, Vec<T>>,
    d_gamma: &mut [T],
    d_beta: &mut [T],
) -> Vec<T> {
    let width = norm.gamma.len();
    let n_tokens = saved.rstd.len();
    assert_eq!(d_y.len(), n_tokens * width, "d_y of {n_tokens} tokens of width {width}");
    assert_eq!((d_gamma.len(), d_beta.len()), (width, width), "d_gamma and d_beta of width {width}");
    let d_y: Vec<f64> = d_y.iter().map(|&d| d.to_f64()).collect();
    let normed: Vec<f64> = saved.normed.iter().map(|&n| n.to_f64()).collect();

    let mut d_s = vec![0.0; d_y.len()];
    for token in 0..n_tokens {
        let row = token * width..(token + 1) * width;
        // y = normed * gamma + beta
        let d_normed: Vec<f64> = row.clone().map(|i| d_y[i] * norm.gamma[i - row.start].to_f64()).collect();
        // normed = (s - mean) * rstd: s also acts through mean and rstd, which the two means take away.
        let mean = d_normed.iter().sum::<f64>() / width as f64;
        let mean_along = row.clone().map(|i| d_normed[i - row.start] * normed[i]).sum::<f64>() / width as f64;
        let rstd: f64 = saved.rstd[token].to_f64();
        for (c, i) in row.enumerate() {
            d_s[i] = rstd * (d_normed[c] - mean - normed[i] * mean_along);
        }
    }
    // y = normed * gamma + beta
    for c in 0..width {
        let column = || (0..n_tokens).map(|token| token * width + c);
        add_to(&mut d_gamma[c], column().map(|i| d_y[i] * normed[i]).sum());
        add_to(&mut d_beta[c], column().map(|i| d_y[i]).sum());
    }
    store(d_s)
}

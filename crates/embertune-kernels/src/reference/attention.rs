//! Self-attention within each text. The formulas: `docs/math/attention_backward.md`.

use super::dropout::factor;
use super::real::{Real, add_to, store};
use crate::dropout::Dropout;
use crate::ops::{AttentionSaved, Heads, Ragged, RelativeBias};

/// What the forward reads and the backward reads again.
pub struct Inputs<'a, T> {
    /// `[n_tokens, 3, heads, head_dim]`: query, key, value.
    pub qkv: &'a [T],
    pub texts: Ragged<'a>,
    pub heads: Heads,
    pub bias: Option<RelativeBias<'a, Vec<T>>>,
    pub dropout: Option<Dropout>,
}

/// Which third of a row of `qkv`.
#[derive(Clone, Copy)]
enum Part {
    Query,
    Key,
    Value,
}

/// `scores = q k^T / sqrt(head_dim) + bias; probs = softmax(scores); context = dropout(probs) v`.
/// `context`: `[n_tokens, heads, head_dim]`, `lse`: `[heads, n_tokens]`.
pub fn attention_forward<T: Real>(inputs: &Inputs<'_, T>) -> AttentionSaved<Vec<T>> {
    let Heads { heads, head_dim } = inputs.heads;
    let n_tokens = inputs.texts.n_tokens();
    inputs.check_shapes();
    let mut context = vec![0.0; n_tokens * inputs.heads.width()];
    let mut lse = vec![0.0; heads * n_tokens];
    for text in 0..inputs.texts.n_texts() {
        let tokens = inputs.texts.range(text);
        for head in 0..heads {
            for i in tokens.clone() {
                let scores: Vec<f64> = tokens.clone().map(|j| inputs.score(head, i, j)).collect();
                // The largest score is taken out so that no exponential overflows.
                let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let lse_i = max + scores.iter().map(|s| (s - max).exp()).sum::<f64>().ln();
                lse[head * n_tokens + i] = lse_i;
                for (j, score) in tokens.clone().zip(scores) {
                    let dropped = (score - lse_i).exp() * inputs.mask(text, head, i, j);
                    for c in 0..head_dim {
                        context[inputs.context_at(head, i) + c] +=
                            dropped * inputs.vector(Part::Value, head, j)[c].to_f64();
                    }
                }
            }
        }
    }
    AttentionSaved { context: store(context), lse: store(lse) }
}

/// Returns `d_qkv`: `[n_tokens, 3, heads, head_dim]`; adds to `d_bias_table`: `[n_buckets, heads]`.
pub fn attention_backward<T: Real>(
    d_context: &[T],
    inputs: &Inputs<'_, T>,
    saved: &AttentionSaved<Vec<T>>,
    d_bias_table: Option<&mut Vec<T>>,
) -> Vec<T> {
    let Heads { heads, head_dim } = inputs.heads;
    let n_tokens = inputs.texts.n_tokens();
    let scale = inputs.scale();
    inputs.check_shapes();
    assert_eq!(d_context.len(), saved.context.len(), "lengths of d_context and context");
    let mut d_qkv = vec![0.0; inputs.qkv.len()];
    let mut d_bias = vec![0.0; d_bias_table.as_ref().map_or(0, |table| table.len())];
    for text in 0..inputs.texts.n_texts() {
        let tokens = inputs.texts.range(text);
        for head in 0..heads {
            for i in tokens.clone() {
                let row = inputs.context_at(head, i)..inputs.context_at(head, i) + head_dim;
                let d_context_i = &d_context[row.clone()];
                // sum over j of probs[j] d_probs[j], which equals the product of the output and its gradient.
                let along = dot(&saved.context[row], d_context_i);
                for j in tokens.clone() {
                    let prob = (inputs.score(head, i, j) - saved.lse[head * n_tokens + i].to_f64()).exp();
                    let mask = inputs.mask(text, head, i, j);
                    // context[i] += prob * mask * v[j]
                    let d_prob = mask * dot(d_context_i, inputs.vector(Part::Value, head, j));
                    // probs = softmax(scores)
                    let d_score = prob * (d_prob - along);
                    for c in 0..head_dim {
                        // context[i] += prob * mask * v[j]
                        d_qkv[inputs.at(Part::Value, head, j) + c] += prob * mask * d_context_i[c].to_f64();
                        // score = scale * q[i] . k[j] + bias
                        let (q, k) = (inputs.vector(Part::Query, head, i), inputs.vector(Part::Key, head, j));
                        d_qkv[inputs.at(Part::Query, head, i) + c] += scale * d_score * k[c].to_f64();
                        d_qkv[inputs.at(Part::Key, head, j) + c] += scale * d_score * q[c].to_f64();
                    }
                    // score = scale * q[i] . k[j] + bias
                    if !d_bias.is_empty() {
                        d_bias[inputs.bias_at(head, i, j).expect("a gradient of the bias needs a bias")] += d_score;
                    }
                }
            }
        }
    }
    if let Some(table) = d_bias_table {
        table.iter_mut().zip(d_bias).for_each(|(sum, d)| add_to(sum, d));
    }
    store(d_qkv)
}

impl<T: Real> Inputs<'_, T> {
    fn scale(&self) -> f64 {
        1.0 / (self.heads.head_dim as f64).sqrt()
    }

    /// The score that query `i` gives to key `j`; both are rows of the batch.
    fn score(&self, head: usize, i: usize, j: usize) -> f64 {
        let product = dot(self.vector(Part::Query, head, i), self.vector(Part::Key, head, j));
        let bias = match (self.bias, self.bias_at(head, i, j)) {
            (Some(bias), Some(at)) => bias.table[at].to_f64(),
            _ => 0.0,
        };
        self.scale() * product + bias
    }

    /// Where the bias of query `i` and key `j` is in its table.
    fn bias_at(&self, head: usize, i: usize, j: usize) -> Option<usize> {
        let bias = self.bias?;
        let bucket = bias.bucket_of[j + bias.max_len - 1 - i] as usize;
        Some(bucket * self.heads.heads + head)
    }

    /// `mask / (1 - p)` of the probability that query `i` gives to key `j`; 1 without dropout.
    fn mask(&self, text: usize, head: usize, i: usize, j: usize) -> f64 {
        let Some(dropout) = self.dropout else {
            return 1.0;
        };
        let tokens = self.texts.range(text);
        let row = head * tokens.len() + (i - tokens.start);
        factor(dropout, dropout.row_state(self.texts.keys[text], row as u32), j - tokens.start)
    }

    /// Offset of one head of one token in `qkv`.
    fn at(&self, part: Part, head: usize, token: usize) -> usize {
        (token * 3 + part as usize) * self.heads.width() + head * self.heads.head_dim
    }

    /// Offset of one head of one token in `context`.
    fn context_at(&self, head: usize, token: usize) -> usize {
        token * self.heads.width() + head * self.heads.head_dim
    }

    fn vector(&self, part: Part, head: usize, token: usize) -> &[T] {
        let at = self.at(part, head, token);
        &self.qkv[at..at + self.heads.head_dim]
    }

    fn check_shapes(&self) {
        let (n_tokens, width) = (self.texts.n_tokens(), self.heads.width());
        assert_eq!(self.qkv.len(), n_tokens * 3 * width, "qkv of {n_tokens} tokens of width 3 * {width}");
        if let Some(bias) = self.bias {
            assert_eq!(bias.bucket_of.len(), 2 * bias.max_len - 1, "buckets of max_len {}", bias.max_len);
            for text in 0..self.texts.n_texts() {
                let len = self.texts.range(text).len();
                assert!(len <= bias.max_len, "a text of {len} tokens, the bias covers {}", bias.max_len);
            }
        }
    }
}

fn dot<T: Real>(a: &[T], b: &[T]) -> f64 {
    a.iter().zip(b).map(|(&a, &b)| a.to_f64() * b.to_f64()).sum()
}

//! Gradient checks and known values of `reference::attention`.

use embertune_kernels::Ops;
use embertune_kernels::dropout::Dropout;
use embertune_kernels::ops::{AttentionSaved, Heads, RelativeBias};
use embertune_kernels::testing::{BATCHES, Texts, assert_close, grad_check, seeded_f64};

use super::{OPS, TORCH, added, begun, dropouts};

const N_BUCKETS: usize = 5;
/// Longer than any text, so that the offset into the buckets counts.
const MAX_LEN: usize = 40;

/// Buckets that tell the two directions apart and join far distances, as MPNet's do.
fn buckets() -> Vec<u32> {
    let bucket = |distance: i32| match distance {
        0 => 0,
        1 => 1,
        2.. => 2,
        -1 => 3,
        _ => 4,
    };
    (1 - MAX_LEN as i32..MAX_LEN as i32).map(bucket).collect()
}

fn bias<'a>(table: &'a Vec<f64>, bucket_of: &'a [u32]) -> RelativeBias<'a, Vec<f64>> {
    RelativeBias { table, bucket_of, max_len: bucket_of.len().div_ceil(2) }
}

/// The gradients of `qkv` and, where there is one, of the bias table, against differences.
fn check(lengths: &[usize], heads: Heads, table: Option<&Vec<f64>>, dropout: Option<Dropout>) {
    let what = format!("attention, lengths {lengths:?}, {heads:?}, bias {}, {dropout:?}", table.is_some());
    let texts = Texts::new(lengths, 7);
    let buckets = buckets();
    let qkv: Vec<f64> = seeded_f64(texts.n_tokens() * 3 * heads.width(), 1).iter().map(|x| 2.0 * x).collect();
    let d_context = seeded_f64(texts.n_tokens() * heads.width(), 2);
    let forward = |qkv: &[f64], table: Option<&Vec<f64>>| -> AttentionSaved<Vec<f64>> {
        OPS.attention_forward(&qkv.to_vec(), texts.ragged(), heads, table.map(|table| bias(table, &buckets)), dropout)
    };

    let saved = forward(&qkv, table);
    let mut d_table = table.map(|table| begun(table.len()));
    let d_qkv = OPS.attention_backward(
        &d_context,
        &qkv,
        &saved,
        texts.ragged(),
        heads,
        table.map(|table| bias(table, &buckets)),
        d_table.as_mut(),
        dropout,
    );

    grad_check(&format!("{what}: qkv"), &qkv, &d_context, &d_qkv, |qkv| forward(qkv, table).context);
    if let (Some(table), Some(d_table)) = (table, d_table) {
        grad_check(&format!("{what}: bias"), table, &d_context, &added(&d_table), |table| {
            forward(&qkv, Some(&table.to_vec())).context
        });
    }
}

#[test]
fn backward_is_the_derivative_of_forward() {
    let heads = Heads { heads: 2, head_dim: 3 };
    let table = seeded_f64(N_BUCKETS * heads.heads, 3);
    // The longest batch would take too long: its differences cost as many forwards as it has inputs.
    for lengths in BATCHES.iter().filter(|lengths| lengths.iter().sum::<usize>() < 16) {
        for dropout in dropouts() {
            check(lengths, heads, None, dropout);
            check(lengths, heads, Some(&table), dropout);
        }
    }
}

#[test]
fn backward_is_the_derivative_of_forward_for_one_head_and_for_heads_of_one() {
    for heads in [Heads { heads: 1, head_dim: 5 }, Heads { heads: 4, head_dim: 1 }] {
        let table = seeded_f64(N_BUCKETS * heads.heads, 3);
        check(&[4, 1, 3], heads, Some(&table), Some(Dropout { p: 0.3, site: 1 }));
    }
}

#[test]
fn values_are_those_of_torch() {
    // s = q @ k.T / 2**0.5 + b; torch.softmax(s, -1) @ v; torch.logsumexp(s, -1)
    // b = [[0, 1, 1], [2, 0, 1], [2, 2, 0]]
    let qkv = vec![
        0.1, 0.2, 0.7, -0.8, 1.0, 2.0, //
        0.3, -0.4, 0.9, 1.0, 3.0, 4.0, //
        -0.5, 0.6, -1.1, 1.2, 5.0, 6.0,
    ];
    let table = vec![0.0, 1.0, 2.0];
    let heads = Heads { heads: 1, head_dim: 2 };
    let texts = Texts::new(&[3], 0);
    let saved = OPS.attention_forward(&qkv, texts.ragged(), heads, Some(bias(&table, &[2, 2, 0, 1, 1])), None);
    let context = [
        3.562804171905397,
        4.5628041719053964,
        1.6030491860874607,
        2.603049186087461,
        2.776183171844393,
        3.7761831718443926,
    ];
    assert_close(&saved.context, &context, 0.0, TORCH);
    assert_close(&saved.lse, &[1.9817332499067937, 2.5797397936794138, 2.693226638405693], 0.0, TORCH);
}

#[test]
fn other_texts_of_a_batch_change_nothing() {
    let heads = Heads { heads: 2, head_dim: 4 };
    let row = 3 * heads.width();
    let texts = Texts::new(&[3, 1, 5], 9);
    let dropout = Some(Dropout { p: 0.5, site: 2 });
    let qkv = seeded_f64(texts.n_tokens() * row, 1);
    let together = OPS.attention_forward(&qkv, texts.ragged(), heads, None, dropout);
    for text in 0..3 {
        let tokens = texts.ragged().range(text);
        let mut alone = texts.ragged();
        let cu_seqlens = [0, tokens.len() as u32];
        alone.cu_seqlens = &cu_seqlens;
        alone.keys = &alone.keys[text..=text];
        let saved =
            OPS.attention_forward(&qkv[tokens.start * row..tokens.end * row].to_vec(), alone, heads, None, dropout);
        assert_eq!(saved.context, together.context[tokens.start * heads.width()..tokens.end * heads.width()]);
    }
}

#[test]
fn large_scores_do_not_overflow() {
    let heads = Heads { heads: 1, head_dim: 1 };
    let texts = Texts::new(&[2], 0);
    let qkv = vec![1e3, 1e3, 5.0, 1e3, -1e3, 7.0];
    let saved = OPS.attention_forward(&qkv, texts.ragged(), heads, None, None);
    assert_eq!(saved.context, [5.0, 5.0]);
    assert_eq!(saved.lse, [1e6, 1e6]);
}

//! Every operation with its inputs, forward and backward, over a grid of sizes: what an implementation of [`Ops`] is compared with another on.

use embertune_kernels::Ops;
use embertune_kernels::dropout::Dropout;
use embertune_kernels::ops::{
    Activation, AdafactorStep, AdamWStep, FeedForward, FeedForwardGrads, Heads, LinearGrads, Lookup, Norm, Pooling,
    RelativeBias, Weight,
};
use embertune_kernels::testing::{BATCHES, LENGTHS, Texts, assert_close, seeded};

/// Texts that fill more than one task and more than one block of queries.
const LONG_BATCHES: &[&[usize]] = &[&[130, 64, 65], &[100; 12]];

/// Named results of an operation.
pub type Results = Vec<(&'static str, Vec<f32>)>;

/// An operation with its inputs, forward and backward.
pub trait Scenario: Sync {
    fn run<O: Ops>(&self, ops: &O) -> Results;
}

/// A comparison of two implementations.
pub trait Check {
    fn run(&self, what: &str, scenario: &impl Scenario);
}

/// Checks `|actual - expected| <= scale_tolerance * largest + rel_tolerance * |expected|` of every result.
pub fn assert_agree(what: &str, actual: &Results, expected: &Results, scale_tolerance: f64, rel_tolerance: f64) {
    for ((name, actual), (_, expected)) in actual.iter().zip(expected) {
        let _shown = ShownOnPanic(format!("{what}: {name}"));
        let scale = expected.iter().fold(0.0_f32, |scale, v| scale.max(v.abs()));
        assert_close(actual, expected, scale_tolerance * f64::from(scale), rel_tolerance);
    }
}

/// Says what was compared when a comparison fails.
struct ShownOnPanic(String);

impl Drop for ShownOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.0);
        }
    }
}

fn upload<O: Ops>(ops: &O, len: usize, seed: u64) -> O::Buf {
    ops.upload(&seeded(len, seed))
}

const DROPOUTS: [Option<Dropout>; 2] = [None, Some(Dropout { p: 0.3, site: 7 })];

struct Linear {
    n: usize,
    rows: usize,
    cols: usize,
}

impl Scenario for Linear {
    fn run<O: Ops>(&self, ops: &O) -> Results {
        let &Linear { n, rows, cols } = self;
        let (x, master) = (upload(ops, n * cols, 1), upload(ops, rows * cols, 2));
        let (bias, d_y) = (upload(ops, rows, 3), upload(ops, n * rows, 4));
        // Gradients are added to what is there.
        let (mut d_weight, mut d_bias) = (upload(ops, rows * cols, 5), upload(ops, rows, 6));
        let packed = ops.pack(&master, rows, cols);
        let w = Weight { master: &master, packed: &packed, rows, cols };
        let y = ops.linear_forward(&x, w, Some(&bias));
        let y_plain = ops.linear_forward(&x, w, None);
        let d_x_frozen = ops.linear_backward(&d_y, &x, w, None);
        let grads = LinearGrads { d_weight: &mut d_weight, d_bias: Some(&mut d_bias) };
        let d_x = ops.linear_backward(&d_y, &x, w, Some(grads));
        vec![
            ("y", ops.download(&y)),
            ("y without bias", ops.download(&y_plain)),
            ("d_x", ops.download(&d_x)),
            ("d_x of a frozen layer", ops.download(&d_x_frozen)),
            ("d_weight", ops.download(&d_weight)),
            ("d_bias", ops.download(&d_bias)),
        ]
    }
}

pub fn linear_agrees(check: &impl Check) {
    for (n, rows, cols) in
        [(0, 3, 5), (1, 1, 1), (7, 9, 17), (33, 31, 65), (100, 48, 32), (1000, 97, 130), (70, 384, 384)]
    {
        check.run(&format!("linear {n} x {rows} x {cols}"), &Linear { n, rows, cols });
    }
}

struct FeedForwardCase {
    n: usize,
    act: Activation,
    intermediate: usize,
}

impl Scenario for FeedForwardCase {
    fn run<O: Ops>(&self, ops: &O) -> Results {
        const HIDDEN: usize = 33;
        let &FeedForwardCase { n, act, intermediate: wide } = self;
        let (x, d_y) = (upload(ops, n * HIDDEN, 1), upload(ops, n * HIDDEN, 2));
        let (up, up_bias) = (upload(ops, wide * HIDDEN, 3), upload(ops, wide, 4));
        let (down, down_bias) = (upload(ops, HIDDEN * wide, 5), upload(ops, HIDDEN, 6));
        let (up_packed, down_packed) = (ops.pack(&up, wide, HIDDEN), ops.pack(&down, HIDDEN, wide));
        let layers = FeedForward {
            up: Weight { master: &up, packed: &up_packed, rows: wide, cols: HIDDEN },
            up_bias: &up_bias,
            activation: act,
            down: Weight { master: &down, packed: &down_packed, rows: HIDDEN, cols: wide },
            down_bias: &down_bias,
        };
        let (y, saved) = ops.feed_forward_forward(&x, layers);
        let mut results = vec![("y", ops.download(&y))];
        // Gradients are added to what is there.
        let sizes = [wide * HIDDEN, wide, HIDDEN * wide, HIDDEN];
        for trained in [[true, true], [true, false], [false, true], [false, false]] {
            let mut d: Vec<_> = sizes.iter().map(|&len| upload(ops, len, 7)).collect();
            let [d_up, d_up_bias, d_down, d_down_bias] = &mut d[..] else { unreachable!() };
            let grads = FeedForwardGrads {
                up: trained[0].then_some(LinearGrads { d_weight: d_up, d_bias: Some(d_up_bias) }),
                down: trained[1].then_some(LinearGrads { d_weight: d_down, d_bias: Some(d_down_bias) }),
            };
            results.push(("d_x", ops.download(&ops.feed_forward_backward(&d_y, &x, &saved, layers, grads))));
            let names = ["d_up", "d_up_bias", "d_down", "d_down_bias"];
            results.extend(names.into_iter().zip(d.iter().map(|d| ops.download(d))));
        }
        results
    }
}

pub fn feed_forward_agrees(check: &impl Check) {
    use Activation::*;
    for act in [GeluErf, GeluTanh, Relu, Silu, Tanh, Sigmoid, Identity] {
        for n in [0, 1, 7, 300] {
            for intermediate in [65, 66] {
                check.run(
                    &format!("{act:?} between {n} rows of {intermediate}"),
                    &FeedForwardCase { n, act, intermediate },
                );
            }
        }
    }
}

struct ActivationCase {
    len: usize,
    act: Activation,
}

impl Scenario for ActivationCase {
    fn run<O: Ops>(&self, ops: &O) -> Results {
        let mut values: Vec<f32> = seeded(self.len, 1).iter().map(|v| 6.0 * v).collect();
        // One element at least where the function is steep: the others' gradients may be all cancellation.
        if let Some(first) = values.first_mut() {
            *first = 0.5;
        }
        let (x, d_y) = (ops.upload(&values), upload(ops, self.len, 2));
        let y = ops.activation_forward(&x, self.act);
        let d_x = ops.activation_backward(&d_y, &x, self.act);
        vec![("y", ops.download(&y)), ("d_x", ops.download(&d_x))]
    }
}

pub fn activations_agree(check: &impl Check) {
    use Activation::*;
    for act in [GeluErf, GeluTanh, Relu, Silu, Tanh, Sigmoid, Identity] {
        for &len in LENGTHS.iter().chain(&[40_000]) {
            check.run(&format!("{act:?} of {len}"), &ActivationCase { len, act });
        }
    }
}

struct DropoutCase<'a> {
    texts: &'a Texts,
    width: usize,
}

impl Scenario for DropoutCase<'_> {
    fn run<O: Ops>(&self, ops: &O) -> Results {
        let &DropoutCase { texts, width } = self;
        let dropout = Dropout { p: 0.1, site: 3 };
        let x = upload(ops, texts.n_tokens() * width, 1);
        let y = ops.dropout_forward(&x, texts.ragged(), dropout, width);
        let d_x = ops.dropout_backward(&x, texts.ragged(), dropout, width);
        vec![("y", ops.download(&y)), ("d_x", ops.download(&d_x))]
    }
}

struct LayerNorm<'a> {
    texts: &'a Texts,
    width: usize,
    with_residual: bool,
    dropout: Option<Dropout>,
}

impl Scenario for LayerNorm<'_> {
    fn run<O: Ops>(&self, ops: &O) -> Results {
        let &LayerNorm { texts, width, with_residual, dropout } = self;
        let len = texts.n_tokens() * width;
        let (x, residual, d_y) = (upload(ops, len, 1), upload(ops, len, 2), upload(ops, len, 3));
        let (gamma, beta) = (upload(ops, width, 4), upload(ops, width, 5));
        let (mut d_gamma, mut d_beta) = (upload(ops, width, 6), upload(ops, width, 7));
        // A large eps, so that rows of one or two close elements stay well conditioned.
        let norm = Norm { gamma: &gamma, beta: &beta, eps: 0.1 };
        let (y, saved) = ops.layer_norm_forward(&x, with_residual.then_some(&residual), texts.ragged(), dropout, norm);
        let d_s = ops.layer_norm_backward(&d_y, &saved, norm, &mut d_gamma, &mut d_beta);
        vec![
            ("y", ops.download(&y)),
            ("y again", ops.download(&ops.layer_norm_output(&saved, norm))),
            ("normed", ops.download(&saved.normed)),
            ("rstd", ops.download(&saved.rstd)),
            ("d_s", ops.download(&d_s)),
            ("d_gamma", ops.download(&d_gamma)),
            ("d_beta", ops.download(&d_beta)),
        ]
    }
}

pub fn dropout_and_layer_norm_agree(check: &impl Check) {
    for lengths in BATCHES.iter().chain(LONG_BATCHES) {
        let texts = Texts::new(lengths, 9);
        for width in [1, 7, 8, 17, 33, 64, 384] {
            check.run(&format!("dropout {lengths:?} x {width}"), &DropoutCase { texts: &texts, width });
            for dropout in DROPOUTS {
                for with_residual in [false, true] {
                    let case = LayerNorm { texts: &texts, width, with_residual, dropout };
                    check.run(&format!("layer_norm {lengths:?} x {width}, {dropout:?}"), &case);
                }
            }
        }
    }
}

struct Attention<'a> {
    texts: &'a Texts,
    heads: Heads,
    with_bias: bool,
    dropout: Option<Dropout>,
}

impl Scenario for Attention<'_> {
    fn run<O: Ops>(&self, ops: &O) -> Results {
        let &Attention { texts, heads, with_bias, dropout } = self;
        const N_BUCKETS: usize = 8;
        const MAX_LEN: usize = 200;
        let (n, width) = (texts.n_tokens(), heads.width());
        let (qkv, d_context) = (upload(ops, n * 3 * width, 1), upload(ops, n * width, 2));
        let table = upload(ops, N_BUCKETS * heads.heads, 3);
        let mut d_table = upload(ops, N_BUCKETS * heads.heads, 4);
        let bucket_of: Vec<u32> = (0..2 * MAX_LEN - 1).map(|d| (d * d / 3 % N_BUCKETS) as u32).collect();
        let bias = with_bias.then_some(RelativeBias { table: &table, bucket_of: &bucket_of, max_len: MAX_LEN });
        let saved = ops.attention_forward(&qkv, texts.ragged(), heads, bias, dropout);
        let d_bias = with_bias.then_some(&mut d_table);
        let d_qkv = ops.attention_backward(&d_context, &qkv, &saved, texts.ragged(), heads, bias, d_bias, dropout);
        vec![
            ("context", ops.download(&saved.context)),
            ("lse", ops.download(&saved.lse)),
            ("d_qkv", ops.download(&d_qkv)),
            ("d_bias_table", ops.download(&d_table)),
        ]
    }
}

pub fn attention_agrees(check: &impl Check) {
    for lengths in BATCHES.iter().chain(LONG_BATCHES) {
        let texts = Texts::new(lengths, 9);
        for (heads, head_dim) in [(1, 1), (2, 5), (3, 8), (2, 32), (2, 64)] {
            for dropout in DROPOUTS {
                for with_bias in [false, true] {
                    let case = Attention { texts: &texts, heads: Heads { heads, head_dim }, with_bias, dropout };
                    check.run(&format!("attention {lengths:?}, {heads} heads of {head_dim}, {dropout:?}"), &case);
                }
            }
        }
    }
}

struct Embedding {
    n: usize,
    width: usize,
}

impl Scenario for Embedding {
    fn run<O: Ops>(&self, ops: &O) -> Results {
        let &Embedding { n, width } = self;
        const N_ROWS: usize = 300;
        let ids: Vec<u32> = (0..n).map(|t| (t * t % 17 * 18) as u32 % N_ROWS as u32).collect();
        let zeros = vec![0_u32; n];
        let (words, types) = (upload(ops, N_ROWS * width, 1), upload(ops, 2 * width, 2));
        let lookups = [Lookup { table: &words, rows: &ids }, Lookup { table: &types, rows: &zeros }];
        let y = ops.embedding_forward(&lookups, width);
        let d_y = upload(ops, n * width, 3);
        let (mut d_words, mut d_types) = (upload(ops, N_ROWS * width, 4), upload(ops, 2 * width, 5));
        ops.embedding_backward(&d_y, &ids, Some(18), width, &mut d_words);
        ops.embedding_backward(&d_y, &zeros, None, width, &mut d_types);
        vec![("y", ops.download(&y)), ("d_words", ops.download(&d_words)), ("d_types", ops.download(&d_types))]
    }
}

pub fn embeddings_agree(check: &impl Check) {
    for n in [0, 1, 5, 100, 1000] {
        for width in [1, 7, 32, 384] {
            check.run(&format!("embedding {n} x {width}"), &Embedding { n, width });
        }
    }
}

struct Pool<'a> {
    texts: &'a Texts,
    skip: Vec<u32>,
    pooling: Pooling,
    width: usize,
}

impl Scenario for Pool<'_> {
    fn run<O: Ops>(&self, ops: &O) -> Results {
        let Pool { texts, skip, pooling, width } = self;
        // Few different values, so that the largest one is at several positions.
        let values: Vec<f32> = seeded(texts.n_tokens() * width, 1).iter().map(|v| (4.0 * v).round()).collect();
        let (x, d_y) = (ops.upload(&values), upload(ops, skip.len() * width, 2));
        let y = ops.pool_forward(&x, texts.ragged(), skip, *pooling, *width);
        let d_x = ops.pool_backward(&d_y, &x, texts.ragged(), skip, *pooling, *width);
        vec![("y", ops.download(&y)), ("d_x", ops.download(&d_x))]
    }
}

pub fn poolings_agree(check: &impl Check) {
    use Pooling::*;
    for lengths in BATCHES.iter().chain(LONG_BATCHES) {
        let texts = Texts::new(lengths, 9);
        for pooling in [Cls, Mean, Max, MeanSqrtLen, WeightedMean, LastToken] {
            for skipped in [0, 2] {
                let skip = lengths.iter().map(|&len| skipped.min(len as u32 - 1)).collect();
                let case = Pool { texts: &texts, skip, pooling, width: 33 };
                check.run(&format!("{pooling:?} of {lengths:?}, {skipped} skipped"), &case);
            }
        }
    }
}

struct Normalize {
    n: usize,
    width: usize,
}

impl Scenario for Normalize {
    fn run<O: Ops>(&self, ops: &O) -> Results {
        let &Normalize { n, width } = self;
        let (x, d_y) = (upload(ops, n * width, 1), upload(ops, n * width, 2));
        let y = ops.normalize_forward(&x, width);
        let d_x = ops.normalize_backward(&d_y, &x, width);
        let zero = ops.normalize_forward(&ops.zeros(width), width);
        // The gradient of a row of one element is zero but for rounding: nothing to compare.
        let d_x = if width > 1 { ops.download(&d_x) } else { Vec::new() };
        vec![("y", ops.download(&y)), ("d_x", d_x), ("y of zeros", ops.download(&zero))]
    }
}

pub fn normalize_agrees(check: &impl Check) {
    for n in [0, 1, 3, 100] {
        for width in [1, 2, 7, 33, 384, 768] {
            check.run(&format!("normalize {n} x {width}"), &Normalize { n, width });
        }
    }
}

struct Elementwise {
    len: usize,
}

impl Scenario for Elementwise {
    fn run<O: Ops>(&self, ops: &O) -> Results {
        let len = self.len;
        let (mut a, b) = (upload(ops, len, 1), upload(ops, len, 2));
        ops.add_assign(&mut a, &b);
        let sum = ops.download(&a);
        ops.scale(&mut a, 0.7);
        let squared_norm = vec![ops.squared_norm(&a) as f32];
        let scaled = ops.download(&a);
        ops.set_zero(&mut a);
        vec![("sum", sum), ("scaled", scaled), ("squared norm", squared_norm), ("zeros", ops.download(&a))]
    }
}

struct AdamW {
    len: usize,
}

impl Scenario for AdamW {
    fn run<O: Ops>(&self, ops: &O) -> Results {
        let (mut w, g) = (upload(ops, self.len, 1), upload(ops, self.len, 2));
        let (mut m, mut v) = (ops.zeros(self.len), ops.zeros(self.len));
        for t in 1..=3 {
            let step = AdamWStep {
                lr: 0.01,
                beta1: 0.9,
                beta2: 0.999,
                eps: 1e-8,
                weight_decay: 0.1,
                bias_correction1: 1.0 - 0.9_f32.powi(t),
                bias_correction2: (1.0 - 0.999_f64.powi(t)) as f32,
                grad_scale: 0.5,
            };
            ops.adamw_step(&mut w, &g, &mut m, &mut v, step);
        }
        vec![("w", ops.download(&w)), ("m", ops.download(&m)), ("v", ops.download(&v))]
    }
}

pub fn elementwise_passes_and_adamw_agree(check: &impl Check) {
    for &len in LENGTHS.iter().chain(&[50_000]) {
        check.run(&format!("elementwise {len}"), &Elementwise { len });
        check.run(&format!("adamw {len}"), &AdamW { len });
    }
}

struct Columns {
    n: usize,
    width: usize,
}

impl Scenario for Columns {
    fn run<O: Ops>(&self, ops: &O) -> Results {
        let &Columns { n, width } = self;
        let x = upload(ops, n * width, 1);
        let mut d_x = upload(ops, n * width, 2);
        let mut results = Vec::new();
        for columns in [0..1, width / 3..width, 0..width] {
            let y = ops.columns_forward(&x, width, columns.clone());
            results.push(("y", ops.download(&y)));
            ops.columns_backward(&upload(ops, n * columns.len(), 3), width, columns, &mut d_x);
        }
        results.push(("d_x", ops.download(&d_x)));
        results
    }
}

pub fn columns_agree(check: &impl Check) {
    for (n, width) in [(0, 3), (1, 1), (5, 48), (700, 51)] {
        check.run(&format!("columns of {n} x {width}"), &Columns { n, width });
    }
}

struct Adafactor {
    parts: usize,
    matrix: Option<(usize, usize)>,
    len: usize,
}

impl Scenario for Adafactor {
    fn run<O: Ops>(&self, ops: &O) -> Results {
        let &Adafactor { parts, matrix, len } = self;
        let (n_rows, n_columns) = matrix.unwrap_or((len, 0));
        let (mut w, g) = (upload(ops, parts * len, 1), upload(ops, parts * len, 2));
        let (mut rows, mut columns) = (ops.zeros(parts * n_rows), ops.zeros(parts * n_columns));
        for t in 1..=3_i32 {
            let step = AdafactorStep {
                lr: 0.01,
                beta2: 1.0 - f64::from(t).powf(-0.8),
                eps: 1e-30,
                clip_threshold: 0.5 * t as f32,
                weight_decay: 0.1,
                grad_scale: 0.5,
                parts,
                matrix,
            };
            ops.adafactor_step(&mut w, &g, &mut rows, &mut columns, step);
        }
        vec![("w", ops.download(&w)), ("rows", ops.download(&rows)), ("columns", ops.download(&columns))]
    }
}

pub fn adafactor_agrees(check: &impl Check) {
    for (parts, rows, columns) in [(1, 1, 1), (1, 7, 3), (3, 48, 51), (2, 700, 33)] {
        let matrix = Some((rows, columns));
        check
            .run(&format!("adafactor {parts} x {rows} x {columns}"), &Adafactor { parts, matrix, len: rows * columns });
    }
    for (parts, len) in [(1, 1), (3, 17), (1, 50_000)] {
        check.run(&format!("adafactor {parts} x {len}"), &Adafactor { parts, matrix: None, len });
    }
}

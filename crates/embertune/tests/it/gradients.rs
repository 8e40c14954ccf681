//! The gradient of every parameter against PyTorch's, by name.

use embertune::model::{DropoutRates, EmbeddingModel};
use embertune::text::{Batch, Role};
use embertune_kernels::Ops;
use embertune_kernels::cpu::Cpu;
use embertune_kernels::dropout::splitmix64;
use embertune_kernels::ops::Pooling;
use embertune_kernels::reference::Reference;
use serde_json::Value;

use crate::golden;
use crate::models::{batch, difference, ids, largest, load, pooled, texts};

/// How far a correct program may be away from PyTorch in f32.
struct Tolerance {
    /// Of the loss.
    loss: f64,
    /// Of a gradient, relative to the largest gradient of the model.
    of_model: f32,
    /// Of a gradient, relative to the largest of its own tensor.
    of_tensor: f32,
    /// Of the norm of all gradients, relative.
    norm: f64,
}

/// Noise of correct f32 programs: 6e-6, 5e-6, 8e-5 (last LayerNorm bias), 2e-6.
const USUAL: Tolerance = Tolerance { loss: 3e-5, of_model: 3e-5, of_tensor: 5e-4, norm: 2e-5 };
/// In all-mpnet-base-v2 rounding grows a thousandfold on the way down through layer 3: the norm of all gradients is
/// 11.42274 by PyTorch in f32 and 11.43363 by PyTorch in f64, a difference of 9.5e-4; ours in f32 is 11.42990. Layers 4 to
/// 11 keep the usual tolerance, but one for all is simpler.
const MPNET_BASE: Tolerance = Tolerance { loss: 3e-5, of_model: 3e-4, of_tensor: 5e-3, norm: 2e-3 };
/// Of a key bias, whose gradient is zero in exact arithmetic: noise 1.4e-7.
const KEY_BIAS: f32 = 2e-6;

#[test]
fn gradients_of_tiny_models_equal_pytorch_by_name() {
    for (pooling, pooling_name) in [(Pooling::Mean, "mean"), (Pooling::Cls, "cls")] {
        for name in ["tiny-bert", "tiny-mpnet"] {
            let Some(json) = golden::json("gradients.json") else { return };
            check_tiny(Reference::<f32>::new(), "gradients", &json, name, pooling, pooling_name);
            check_tiny(Cpu::new(), "gradients", &json, name, pooling, pooling_name);
        }
    }
}

#[test]
fn gradients_of_other_architectures_equal_pytorch_by_name() {
    let Some(json) = golden::json("models.json") else { return };
    for (name, pooling, pooling_name) in [
        ("tiny-roberta", Pooling::Mean, "mean"),
        ("tiny-xlm-roberta", Pooling::Cls, "cls"),
        ("tiny-distilbert", Pooling::Mean, "mean"),
    ] {
        check_tiny(Reference::<f32>::new(), "models", &json["gradients"], name, pooling, pooling_name);
        check_tiny(Cpu::new(), "models", &json["gradients"], name, pooling, pooling_name);
    }
}

pub fn check_tiny<O: Ops>(ops: O, set: &str, json: &Value, name: &str, pooling: Pooling, pooling_name: &str) {
    let Some(tensors) = golden::tensors(&format!("{set}.safetensors")) else { return };
    let Some(folder) = golden::golden(name) else { return };
    let case = format!("{name}/{pooling_name}");
    let run = Run::of_golden_batch(&load(ops, &folder, &pooled(pooling, true)), json, name, 0.02);
    run.check_totals(&json["cases"][&case], &USUAL);

    let of_model = USUAL.of_model * run.largest();
    for (tensor, actual) in &run.gradients {
        let (_, expected) = &tensors[&format!("{case}/{tensor}")];
        if is_key_bias(tensor) {
            assert!(largest(actual) < KEY_BIAS, "{case}/{tensor}: {:e}", largest(actual));
            continue;
        }
        let allowed = of_model.min(USUAL.of_tensor * largest(expected));
        let difference = difference(actual, expected);
        assert!(difference <= allowed, "{case}/{tensor}: {difference:e}, allowed {allowed:e}");
    }
    let n_golden = tensors.keys().filter(|key| key.starts_with(&format!("{case}/")) && !key.contains("/rep")).count();
    assert_eq!(run.gradients.len(), n_golden, "{case}");
}

#[test]
fn gradients_of_real_models_equal_pytorch_by_name() {
    let Some(json) = golden::json("gradients.json") else { return };
    for (name, tolerance) in [("all-MiniLM-L6-v2", USUAL), ("all-mpnet-base-v2", MPNET_BASE)] {
        let Some(folder) = golden::real_model(name) else { continue };
        let case = &json["cases"][format!("{name}/mean")];
        let run = Run::of_golden_batch(&load(Cpu::new(), &folder, &pooled(Pooling::Mean, true)), &json, name, 0.2);
        let fingerprints = case["fingerprints"].as_object().expect("fingerprints by name");
        assert_eq!(run.gradients.len(), fingerprints.len(), "{name}");
        let of_model = tolerance.of_model * run.largest();
        let wrong: Vec<_> = run
            .gradients
            .iter()
            .filter_map(|(tensor, actual)| {
                let problem =
                    against_fingerprint(tensor, actual, &fingerprints[tensor], of_model, tolerance.of_tensor)?;
                Some(format!("{name}/{tensor}: {problem}"))
            })
            .collect();
        assert!(wrong.is_empty(), "{} tensors:\n{}", wrong.len(), wrong.join("\n"));
        run.check_totals(case, &tolerance);
    }
}

/// In f64 nothing is left of the rounding that [`MPNET_BASE`] allows for. Expected are the norms of PyTorch in f64 (2.15,
/// `AutoModel.from_pretrained(...).double()`, one text at a time, mean, `infonce(q, p, 0.2)`).
#[test]
#[ignore = "takes half a minute: the reference is slow on a model of this size"]
fn gradients_of_mpnet_base_in_f64_equal_pytorch_in_f64() {
    let Some(folder) = golden::real_model("all-mpnet-base-v2") else { return };
    let model = load(Reference::<f64>::new(), &folder, &pooled(Pooling::Mean, true));
    let batch = |texts: [[u32; 6]; 2]| {
        let mut batch = Batch::default();
        texts.iter().for_each(|ids| batch.push(ids, 0, 0));
        batch
    };
    let queries = batch([[0, 8098, 3212, 2009, 27008, 2], [0, 5314, 1015, 2690, 11972, 2]]);
    let passages = batch([[0, 3726, 4274, 8947, 2007, 2], [0, 10443, 27296, 2957, 3644, 2]]);
    let run = Run::new(&model, &queries, &passages, 0.2);
    let norm_of = |tensor: &str| run.gradients.iter().find(|(name, _)| name == tensor).map(|(_, g)| norm(g));
    let all = run.gradients.iter().map(|(_, g)| norm(g).powi(2)).sum::<f64>().sqrt();
    for (what, actual, expected) in [
        ("loss", Some(run.loss), 0.784981950683668),
        ("all", Some(all), 9.334730515972675),
        ("word table", norm_of("embeddings.word_embeddings.weight"), 1.2149599152556785),
        ("values of layer 1", norm_of("encoder.layer.1.attention.attn.v.weight"), 1.9959971963467642),
        ("distances", norm_of("encoder.relative_attention_bias.weight"), 0.0661904779834664),
        ("end of layer 11", norm_of("encoder.layer.11.output.dense.weight"), 1.2705913886253761),
    ] {
        // Vectors and their gradients pass between model and loss in f32.
        let error = actual.expect("the tensor") / expected - 1.0;
        eprintln!("{what}: {error:e}");
        assert!(error.abs() <= 1e-5, "{what}: {error:e}");
    }
}

/// Compares norm, projection and eight values of a gradient that is too large to store. Says what is wrong.
fn against_fingerprint(
    tensor: &str,
    actual: &[f32],
    expected: &Value,
    of_model: f32,
    of_tensor: f32,
) -> Option<String> {
    if is_key_bias(tensor) {
        return (largest(actual) >= KEY_BIAS).then(|| format!("{:e}", largest(actual)));
    }
    let allowed = f64::from(of_model.min(of_tensor * largest(actual)));
    let values = |key: &str| expected[key].as_array().expect("numbers").iter().map(|v| v.as_f64().expect("a number"));
    let at = values("at").map(|i| i as usize);
    for (i, expected) in (0..4).zip(values("first")).chain(at.zip(values("values"))) {
        if (f64::from(actual[i]) - expected).abs() > allowed {
            return Some(format!("element {i} is {}, not {expected}, allowed {allowed:e}", actual[i]));
        }
    }
    let (norm, expected_norm) = (norm(actual), expected["norm"].as_f64().expect("a number"));
    if (norm - expected_norm).abs() > f64::from(of_tensor) * expected_norm {
        return Some(format!("the norm is {norm}, not {expected_norm}"));
    }
    let probe: f64 = actual.iter().zip(hash_uniform(7, tensor)).map(|(g, u)| f64::from(*g) * u).sum();
    let expected_probe = expected["probe"].as_f64().expect("a number");
    // A random projection of an error is about as large as the error's norm.
    let allowed = 4.0 * f64::from(of_tensor) * expected_norm;
    ((probe - expected_probe).abs() > allowed).then(|| format!("the projection is {probe}, not {expected_probe}"))
}

/// Numbers in -1..1 that stand for a name: splitmix64 from `seed + fnv1a64(name)`, the 24 high bits.
fn hash_uniform(seed: u64, name: &str) -> impl Iterator<Item = f64> {
    let hash = name.bytes().fold(0xCBF2_9CE4_8422_2325_u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01B3));
    let state = seed.wrapping_add(hash);
    (0_u64..).map(move |i| {
        let bits = splitmix64(state.wrapping_add(i.wrapping_mul(0x9E37_79B9_7F4A_7C15))) >> 40;
        (bits as f64 + 0.5) / 8_388_608.0 - 1.0
    })
}

fn is_key_bias(tensor: &str) -> bool {
    ["key.bias", "attn.k.bias", "k_lin.bias"].iter().any(|end| tensor.ends_with(end))
}

fn norm(values: &[f32]) -> f64 {
    values.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>().sqrt()
}

/// Loss and gradients of the golden batch.
struct Run {
    loss: f64,
    gradients: Vec<(String, Vec<f32>)>,
}

impl Run {
    fn of_golden_batch<O: Ops>(model: &EmbeddingModel<O>, json: &Value, name: &str, temperature: f64) -> Self {
        let side = |key: &str, role: Role, length: &str| {
            let length = json[length].as_u64().expect("a length") as usize;
            let tokens = model.tokenize(&texts(&json["texts"][key]), role, Some(length)).expect("tokens");
            let expected = ids(&json["ids"][name][key]);
            assert!(tokens.iter().map(|t| &t.ids).eq(&expected), "{name}: token ids of {key}");
            batch(&tokens)
        };
        let (queries, passages) = (side("q", Role::Query, "q_len"), side("p", Role::Passage, "p_len"));
        Self::new(model, &queries, &passages, temperature)
    }

    fn new<O: Ops>(model: &EmbeddingModel<O>, queries: &Batch, passages: &Batch, temperature: f64) -> Self {
        let forward = |batch: &Batch| model.forward(batch, DropoutRates::default());
        let ((q, q_saved), (p, p_saved)) = (forward(queries), forward(passages));
        let (loss, d_q, d_p) = info_nce(&q, &p, model.dim(), temperature);
        let mut grads = model.parameters().zero_gradients(model.ops());
        model.backward(queries, &q_saved, &d_q, &mut grads);
        model.backward(passages, &p_saved, &d_p, &mut grads);

        let mut gradients = Vec::new();
        for (param, grad) in model.parameters().list.iter().zip(&grads.list) {
            let mut grad = model.ops().download(grad);
            for part in &param.parts {
                let rest = grad.split_off(part.len());
                gradients.push((part.name.clone(), grad));
                grad = rest;
            }
        }
        Run { loss, gradients }
    }

    fn largest(&self) -> f32 {
        self.gradients.iter().map(|(_, gradient)| largest(gradient)).fold(0.0, f32::max)
    }

    fn check_totals(&self, case: &Value, tolerance: &Tolerance) {
        let expected = case["loss"].as_f64().expect("a loss");
        assert!((self.loss - expected).abs() <= tolerance.loss, "loss {}, {expected}", self.loss);
        let expected = case["grad_norm"].as_f64().expect("a norm");
        let actual = self.gradients.iter().map(|(_, g)| norm(g).powi(2)).sum::<f64>().sqrt();
        assert!((actual - expected).abs() <= tolerance.norm * expected, "norm {actual}, {expected}");
    }
}

/// InfoNCE over normalised vectors in f64, so that only the model is tested: `mean_i(-S[i, iG] + ln sum_j exp S[i, j])`,
/// `S = q p^T / T`. Returns the loss, `d_q` and `d_p`.
fn info_nce(q: &[f32], p: &[f32], dim: usize, temperature: f64) -> (f64, Vec<f32>, Vec<f32>) {
    let (n, m) = (q.len() / dim, p.len() / dim);
    let (mut d_q, mut d_p) = (vec![0.0_f64; q.len()], vec![0.0_f64; p.len()]);
    let mut loss = 0.0;
    for i in 0..n {
        let score = |j: usize| {
            let (q, p) = (&q[i * dim..][..dim], &p[j * dim..][..dim]);
            q.iter().zip(p).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>() / temperature
        };
        let scores: Vec<f64> = (0..m).map(score).collect();
        let highest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let lse = highest + scores.iter().map(|s| (s - highest).exp()).sum::<f64>().ln();
        let positive = i * m / n;
        loss += (lse - scores[positive]) / n as f64;
        for j in 0..m {
            let d_score = ((scores[j] - lse).exp() - f64::from(j == positive)) / n as f64 / temperature;
            for k in 0..dim {
                d_q[i * dim + k] += d_score * f64::from(p[j * dim + k]);
                d_p[j * dim + k] += d_score * f64::from(q[i * dim + k]);
            }
        }
    }
    let narrow = |values: Vec<f64>| values.into_iter().map(|v| v as f32).collect();
    (loss, narrow(d_q), narrow(d_p))
}

//! InfoNCE against PyTorch: values and gradients of given representations (`losses.json`).

use std::collections::BTreeMap;

use embertune::loss::{InfoNce, Negatives, info_nce};
use embertune_kernels::Ops;
use embertune_kernels::reference::Reference;
use embertune_kernels::testing::assert_close;
use serde_json::Value;

use crate::golden::{self, Tensor};

/// Relative error of a loss value; correct float32 programs differ by 1e-6 (golden README).
const VALUE: f64 = 1e-5;
/// Error of a gradient over the case's largest gradient; noise 1.9e-6.
const GRADIENT: f64 = 2e-5;

struct Cases {
    list: Vec<Value>,
    tensors: BTreeMap<String, Tensor>,
}

impl Cases {
    fn load() -> Option<Self> {
        let json = golden::json("losses.json")?;
        Some(Cases { list: json["cases"].as_array()?.clone(), tensors: golden::tensors("losses.safetensors")? })
    }

    fn case(&self, name: &str) -> &Value {
        self.list.iter().find(|case| case["name"] == name).expect("a case of losses.json")
    }

    /// The rows of the tensors that `keys` of the case's map `what` name, one after the other.
    fn rows(&self, case: &Value, what: &str, keys: &[String]) -> Vec<f32> {
        keys.iter().flat_map(|key| self.tensors[case[what][key].as_str().unwrap()].1.clone()).collect()
    }
}

/// Runs a case and compares value and gradients. `ranks` processes hold the rows of a cross-device case.
fn check(cases: &Cases, name: &str, ranks: Option<usize>) {
    let case = cases.case(name);
    let params = &case["params"];
    let keys = |of: &str| match ranks {
        None => vec![of.to_owned()],
        Some(n) => (0..n).map(|rank| format!("{of}{rank}")).collect(),
    };
    let (q, p) = (cases.rows(case, "inputs", &keys("q")), cases.rows(case, "inputs", &keys("p")));
    let dim = 32;
    let (n_queries, n_passages) = (q.len() / dim, p.len() / dim);
    let group_sizes: Vec<usize> = match params["sizes"].as_array() {
        Some(sizes) => sizes.iter().map(|n| n.as_u64().unwrap() as usize).collect(),
        None => vec![n_passages / n_queries; n_queries],
    };
    let excluded = match case["inputs"]["mask"].as_str() {
        Some(mask) => cases.tensors[mask].1.iter().map(|&m| m != 0.0).collect(),
        None => vec![false; n_queries * n_passages],
    };
    let own_group = params["in_batch"] == false || case["formula"] == "formulas.infonce_local";
    let normalized = params["normalize"] != false;

    let ops = Reference::<f32>::new();
    let unit = |x: &Vec<f32>| if normalized { ops.normalize_forward(x, dim) } else { x.clone() };
    let out = info_nce(&InfoNce {
        queries: &unit(&q),
        passages: &unit(&p),
        dim,
        group_sizes: &group_sizes,
        excluded: &excluded,
        negatives: if own_group { Negatives::OwnGroup } else { Negatives::InBatch },
        temperature: params["T"].as_f64().unwrap(),
    });
    println!("{name}: {} expected {}", out.loss, case["loss"]);
    let value = case["loss_f64"].as_f64().or(case["loss"].as_f64()).unwrap();
    assert_close(&[out.loss], &[value], 0.0, VALUE);

    let back = |d: &Vec<f32>, x: &Vec<f32>| if normalized { ops.normalize_backward(d, x, dim) } else { d.clone() };
    let actual = [back(&out.d_queries, &q), back(&out.d_passages, &p)];
    let expected = [cases.rows(case, "grads", &keys("q")), cases.rows(case, "grads", &keys("p"))];
    let largest = expected.iter().flatten().fold(0.0_f32, |largest, g| largest.max(g.abs()));
    for (actual, expected) in actual.iter().zip(&expected) {
        assert_close(actual, expected, GRADIENT * f64::from(largest), 0.0);
    }
}

#[test]
fn info_nce_equals_pytorch() {
    let Some(cases) = Cases::load() else { return };
    for name in [
        "infonce_in_batch",
        "infonce_in_batch_T1",
        "infonce_in_batch_unnormalised",
        "infonce_G1",
        "infonce_no_in_batch",
        "infonce_false_negative_mask",
        "infonce_ragged",
        "infonce_ragged_no_in_batch",
    ] {
        check(&cases, name, None);
    }
}

#[test]
fn info_nce_of_all_processes_together_equals_pytorch() {
    let Some(cases) = Cases::load() else { return };
    check(&cases, "cross_device_2_ranks", Some(2));
    check(&cases, "cross_device_3_ranks", Some(3));
}

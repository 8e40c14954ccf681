//! Losses against PyTorch: values and gradients of given representations (`losses.json`).

use std::collections::{BTreeMap, BTreeSet};

use embertune::loss::{Directions, Distance, Groups, InfoNce, Loss, Margin, Negatives, Vectors, matryoshka};
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

    /// The rows of the tensors that `keys` of the case's map `what` name, one after the other.
    fn rows(&self, case: &Value, what: &str, keys: &[String]) -> Vec<f32> {
        keys.iter().flat_map(|key| self.tensors[case[what][key].as_str().unwrap()].1.clone()).collect()
    }

    /// An input that a case may have.
    fn input(&self, case: &Value, key: &str) -> Option<Vec<f32>> {
        Some(self.tensors[case["inputs"][key].as_str()?].1.clone())
    }
}

/// The names of the tensors that are queries, and of those that are passages, each list to be joined.
fn names(case: &Value) -> [Vec<String>; 2] {
    let has = |key: &str| case["inputs"][key].is_string();
    let list = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
    if let Some(world) = case["params"]["world"].as_u64() {
        return ["q", "p"].map(|of| (0..world).map(|rank| format!("{of}{rank}")).collect());
    }
    match (has("q"), has("n")) {
        (true, _) => [list(&["q"]), list(&["p"])],
        (_, true) => [list(&["a"]), list(&["p", "n"])],
        _ => [list(&["a"]), list(&["b"])],
    }
}

/// The loss of a formula of the golden folder.
fn loss_of(case: &Value) -> Loss {
    let params = &case["params"];
    let number = |key: &str| params[key].as_f64().unwrap();
    let own_group = params["in_batch"] == false || case["formula"] == "formulas.infonce_local";
    let negatives = if own_group { Negatives::OwnGroup } else { Negatives::InBatch };
    let info_nce = || InfoNce::new(negatives, number("T"));
    match case["formula"].as_str().unwrap().strip_prefix("formulas.").unwrap() {
        "infonce" | "infonce_local" | "infonce_ragged" | "matryoshka" | "infonce of the concatenation" => {
            Loss::InfoNce(info_nce())
        }
        "infonce_symmetric" => Loss::InfoNce(InfoNce { directions: Directions::TwoWay, ..info_nce() }),
        "infonce_joint" => Loss::InfoNce(InfoNce { directions: Directions::Joint, ..info_nce() }),
        "gist" => {
            let margin = if params["relative"] == true { Margin::Relative } else { Margin::Absolute };
            let directions = if params["contrast"] == true { Directions::Gist } else { Directions::OneWay };
            Loss::InfoNce(InfoNce { directions, guide_margin: margin(number("margin")), ..info_nce() })
        }
        "kl_div" => Loss::KlDiv(info_nce()),
        "m3_kd" => Loss::M3Kd(info_nce()),
        "distill_kl" => Loss::DistillKl { temperature: number("T") },
        "margin_mse" => Loss::MarginMse,
        "triplet" => {
            let cosine = params["metric"] == "cosine";
            let distance = if cosine { Distance::Cosine } else { Distance::Euclidean };
            Loss::Triplet { distance, margin: number("margin") }
        }
        "cosent" => Loss::CoSent { temperature: 1.0 / number("scale") },
        "cosine_mse" => Loss::CosineMse,
        "contrastive" => Loss::Contrastive { margin: number("margin") },
        other => panic!("no loss for the formula {other}"),
    }
}

/// Whether the formula takes the vectors as they are.
fn takes_raw(case: &Value) -> bool {
    let raw = ["formulas.margin_mse", "formulas.triplet"].contains(&case["formula"].as_str().unwrap());
    case["params"]["normalize"] == false || raw && case["params"]["metric"] != "cosine"
}

/// Blocks of rows, one block per place in a group, as groups: the first rows of all blocks, then the second ones, ...
fn interleave(rows: &[f32], dim: usize, n_blocks: usize) -> Vec<f32> {
    let n = rows.len() / dim / n_blocks;
    (0..n).flat_map(|i| (0..n_blocks).flat_map(move |b| rows[(b * n + i) * dim..][..dim].to_vec())).collect()
}

/// Runs a case and compares value and gradients.
fn check(cases: &Cases, case: &Value) {
    let name = case["name"].as_str().unwrap();
    let params = &case["params"];
    let [query_names, passage_names] = names(case);
    let n_blocks = if passage_names.len() == 2 && params["world"].is_null() { 2 } else { 1 };
    let dim = 32;
    let q = cases.rows(case, "inputs", &query_names);
    let p = interleave(&cases.rows(case, "inputs", &passage_names), dim, n_blocks);
    let (n_queries, n_passages) = (q.len() / dim, p.len() / dim);
    let group_sizes: Vec<usize> = match params["sizes"].as_array() {
        Some(sizes) => sizes.iter().map(|n| n.as_u64().unwrap() as usize).collect(),
        None => vec![n_passages / n_queries; n_queries],
    };
    let excluded = match cases.input(case, "mask") {
        Some(mask) => mask.iter().map(|&m| m != 0.0).collect(),
        None => vec![false; n_queries * n_passages],
    };
    let scores = cases.input(case, "teacher").or(cases.input(case, "labels")).unwrap_or_default();

    let ops = Reference::<f32>::new();
    let unit = |x: &Vec<f32>| if takes_raw(case) { x.clone() } else { ops.normalize_forward(x, dim) };
    let (queries, passages) = (unit(&q), unit(&p));
    let guide = cases.input(case, "gq").zip(cases.input(case, "gp"));
    let guide = guide.map(|(q, p)| (ops.normalize_forward(&q, dim), ops.normalize_forward(&p, dim)));
    let groups = Groups {
        vectors: Vectors { queries: &queries, passages: &passages, dim },
        group_sizes: &group_sizes,
        excluded: &excluded,
        scores: &scores,
        guide: guide.as_ref().map(|(queries, passages)| Vectors { queries, passages, dim }),
    };
    let out = match params["dims"].as_array() {
        None => loss_of(case).judge(&groups),
        Some(dims) => {
            let weight = if params["average"] == true { 1.0 / dims.len() as f64 } else { 1.0 };
            let dims: Vec<_> = dims.iter().map(|k| (k.as_u64().unwrap() as usize, weight)).collect();
            matryoshka(&loss_of(case), &groups, &dims, |k| k < dim)
        }
    };
    println!("{name}: {} expected {}", out.loss, case["loss"]);
    let value = case["loss_f64"].as_f64().or(case["loss"].as_f64()).unwrap();
    assert_close(&[out.loss], &[value], 0.0, VALUE);

    let back = |d: &Vec<f32>, x: &Vec<f32>| if takes_raw(case) { d.clone() } else { ops.normalize_backward(d, x, dim) };
    let actual = [back(&out.d_queries, &q), back(&out.d_passages, &p)];
    let expected = [
        cases.rows(case, "grads", &query_names),
        interleave(&cases.rows(case, "grads", &passage_names), dim, n_blocks),
    ];
    let largest = expected.iter().flatten().fold(0.0_f32, |largest, g| largest.max(g.abs()));
    for (actual, expected) in actual.iter().zip(&expected) {
        assert_close(actual, expected, GRADIENT * f64::from(largest), 0.0);
    }
}

/// Runs the cases whose names begin so. Together the tests below run all.
fn check_all(beginnings: &[&str]) {
    let Some(cases) = Cases::load() else { return };
    let name = |case: &Value| case["name"].as_str().unwrap().to_owned();
    for beginning in beginnings {
        let begun: Vec<_> = cases.list.iter().filter(|case| name(case).starts_with(beginning)).collect();
        assert!(!begun.is_empty(), "a case {beginning}");
        begun.iter().for_each(|case| check(&cases, case));
    }
}

#[test]
fn info_nce_equals_pytorch() {
    check_all(&["infonce_in_batch", "infonce_G1", "infonce_no_in_batch", "infonce_false_negative", "infonce_ragged"]);
}

#[test]
fn info_nce_of_several_directions_equals_pytorch() {
    check_all(&["infonce_symmetric", "infonce_joint"]);
}

#[test]
fn info_nce_of_all_processes_together_equals_pytorch() {
    check_all(&["cross_device"]);
}

#[test]
fn distillation_equals_pytorch() {
    check_all(&["kl_div", "m3_kd_loss", "distill_kl", "margin_mse"]);
}

#[test]
fn triplets_and_pairs_equal_pytorch() {
    check_all(&["triplet", "cosent", "cosine_mse", "contrastive"]);
}

#[test]
fn matryoshka_equals_pytorch() {
    check_all(&["matryoshka"]);
}

#[test]
fn masks_of_a_guide_equal_pytorch() {
    check_all(&["gist"]);
}

#[test]
fn every_case_has_a_loss() {
    let Some(cases) = Cases::load() else { return };
    cases.list.iter().for_each(|case| check(&cases, case));
    let names: BTreeSet<_> = cases.list.iter().map(|case| case["name"].to_string()).collect();
    assert_eq!(names.len(), 32);
}

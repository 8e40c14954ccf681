//! Steps of the optimizers against PyTorch's and transformers' (`tests/golden/make_optimizers.py`).

use embertune::model::Parameters;
use embertune::model::params::{Kind, Part};
use embertune::optim::{AdamWSettings, Optimizer, OptimizerName};
use embertune_kernels::Ops;
use embertune_kernels::cpu::Cpu;
use embertune_kernels::reference::Reference;
use embertune_kernels::testing::assert_close;
use serde_json::Value;

use crate::golden;

/// The settings of a step are f32, and so is what is read back.
const EXACT: f64 = 2e-7;
/// Steps in f32.
const F32: f64 = 3e-6;

fn floats(value: &Value) -> Vec<f32> {
    value.as_array().unwrap().iter().map(|number| number.as_f64().unwrap() as f32).collect()
}

/// Query and key as one tensor, as in a model.
fn check<O: Ops>(ops: &O, name: OptimizerName, golden: &Value, tolerance: f64) {
    let tensors = golden["tensors"].as_array().unwrap();
    let shape = |i: usize| serde_json::from_value::<Vec<usize>>(tensors[i]["shape"].clone()).unwrap();
    let part = |i: usize| Part { name: tensors[i]["name"].as_str().unwrap().into(), shape: shape(i) };
    let both = |key: &dyn Fn(&Value) -> Vec<f32>| [key(&tensors[0]), key(&tensors[1])].concat();
    let values = |tensor: &Value| floats(&tensor["values"]);
    let mut parameters = Parameters::default();
    parameters.add(ops, vec![part(0), part(1)], Kind::Matrix { rows: 6, cols: 4 }, &both(&values));
    parameters.add(ops, vec![part(2)], Kind::Bias, &values(&tensors[2]));
    parameters.add(ops, vec![part(3)], Kind::Table, &values(&tensors[3]));
    let number = |key: &str| golden[key].as_f64().unwrap();
    let settings = AdamWSettings { beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: number("weight_decay") };
    let mut optimizer = Optimizer::new(name, ops, &parameters, settings);
    for (step, expected) in golden[name.to_string()].as_array().unwrap().iter().enumerate() {
        let gradient = |tensor: &Value| floats(&tensor["gradients"][step]);
        let mut gradients = parameters.zero_gradients(ops);
        gradients.list = [both(&gradient), gradient(&tensors[2]), gradient(&tensors[3])]
            .iter()
            .map(|values| ops.upload(&values.iter().map(|value| 2.0 * value).collect::<Vec<_>>()))
            .collect();
        optimizer.step(ops, &mut parameters, &gradients, number("learning_rate"), 0.5);
        let expected = |i: usize| floats(&expected[&part(i).name]);
        for (param, expected) in
            parameters.list.iter().zip([[expected(0), expected(1)].concat(), expected(2), expected(3)])
        {
            assert_close(&ops.download(&param.value), &expected, tolerance, 0.0);
        }
    }
}

#[test]
fn steps_equal_those_of_pytorch_and_transformers() {
    let Some(golden) = golden::json("optimizers.json") else { return };
    for name in [OptimizerName::AdamW, OptimizerName::Adafactor] {
        check(&Reference::<f64>::new(), name, &golden, EXACT);
        check(&Cpu::new(), name, &golden, F32);
    }
}

#[test]
fn adafactor_keeps_hardly_anything() {
    let cpu = Cpu::new();
    let mut parameters = Parameters::default();
    let part = Part { name: "w".into(), shape: vec![512, 256] };
    parameters.add(&cpu, vec![part], Kind::Matrix { rows: 512, cols: 256 }, &vec![0.0; 512 * 256]);
    let settings = AdamWSettings { beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.0 };
    let bytes_of = |name| {
        let before = cpu.buffer_bytes().used;
        let _optimizer = Optimizer::new(name, &cpu, &parameters, settings);
        cpu.buffer_bytes().used - before
    };
    assert!(bytes_of(OptimizerName::AdamW) >= 8 * 512 * 256);
    assert!(bytes_of(OptimizerName::Adafactor) < 8 * (512 + 256));
}

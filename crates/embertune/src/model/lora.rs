//! Low-rank adapters beside the linear layers of an encoder whose own weights stay as they are: `y = w x + b + scale B A dropout(x)`.
//!
//! Source: Hu et al. 2021, "LoRA" (arXiv:2106.09685), by the conventions of PEFT: `A` is `[r, inputs]`, `B` is `[outputs, r]` and zero at
//! first, `scale = alpha / r`, or `alpha / sqrt(r)` with rank stabilisation (Kalajdzievski 2023, arXiv:2312.03732). One thing differs: query,
//! key and value are one layer here, so the dropout before their `A` has one mask where PEFT draws three.

use std::fs::{self, File};
use std::io::Write;
use std::ops::Range;
use std::path::Path;

use embertune_kernels::Ops;
use embertune_kernels::dropout::Dropout;
use embertune_kernels::ops::LinearGrads;
use serde_json::json;

use super::params::{Depth, Gradients, Kind, Param, ParamId, Parameters, Part};
use super::pass::Pass;
use super::tensor_files::{self, Output, TensorFiles};
use crate::{Error, Result};

/// Stands for every linear layer of the encoder, as in PEFT.
pub const ALL_LINEAR: &str = "all-linear";
/// The folder of the adapter's files, in the folder of a model.
pub const FOLDER: &str = "adapter";
const WEIGHTS: &str = "adapter_model.safetensors";
const CONFIG: &str = "adapter_config.json";
/// What PEFT puts before the names of the model.
const PREFIX: &str = "base_model.model.";
/// Dropout sites of adapters are beyond those of any encoder.
const FIRST_SITE: u32 = 1 << 20;

/// How adapters are made.
#[derive(Clone, Debug, PartialEq)]
pub struct LoraConfig {
    /// Inner width, at least 1.
    pub rank: usize,
    /// What the product is scaled by, before it is divided by the rank.
    pub alpha: f64,
    /// Divide by the root of the rank instead.
    pub rank_stabilized: bool,
    /// Dropout of the adapters' inputs, for the record that PEFT reads; the one in use is that of the pass.
    pub dropout: f32,
    /// Ends of the names of linear layers, as `query` or `attention.output.dense`, or [`ALL_LINEAR`].
    pub targets: Vec<String>,
    /// Layers below this one get none.
    pub first_layer: usize,
    /// What the adapters belong to: a folder or hub name, for the record that PEFT reads.
    pub base: String,
}

impl LoraConfig {
    /// Factor on `B A`.
    pub fn scale(&self) -> f32 {
        let rank = self.rank as f64;
        (self.alpha / if self.rank_stabilized { rank.sqrt() } else { rank }) as f32
    }

    /// Whether a linear layer of this name gets an adapter, by PEFT's rule.
    fn covers(&self, module: &str) -> bool {
        self.targets.iter().any(|target| target == ALL_LINEAR || ends_with(module, target))
    }
}

fn ends_with(module: &str, target: &str) -> bool {
    module == target || module.strip_suffix(target).is_some_and(|rest| rest.ends_with('.'))
}

/// The adapter of one linear layer. Where that is several layers of the checkpoint in one, each has its own `B`, and the `A` of all are
/// one matrix.
pub struct Adapter {
    /// `[parts * rank, inputs]`.
    a: ParamId,
    /// The outputs that a part adds to, and its `B`, `[outputs, rank]`.
    parts: Vec<(Range<usize>, ParamId)>,
    rank: usize,
    inputs: usize,
    outputs: usize,
    scale: f32,
    site: u32,
}

impl Adapter {
    /// `y += scale B A dropout(x)`. `x`: `[n, inputs]`, `y`: `[n, outputs]`.
    pub fn forward<O: Ops>(&self, pass: Pass<'_, O>, x: &O::Buf, y: &mut O::Buf) {
        let inner = self.inner(pass, self.dropped(pass, x).as_ref().unwrap_or(x));
        for (i, (outputs, b)) in self.parts.iter().enumerate() {
            let part = pass.ops.columns_forward(&inner, self.inner_width(), self.columns(i));
            let added = pass.ops.linear_forward(&part, pass.params.weight(*b), None);
            pass.ops.columns_backward(&added, self.outputs, outputs.clone(), y);
        }
    }

    /// Of `y += scale B A dropout(x)`: adds to `d_x` and to the gradients of `A` and `B`. The inner vectors are computed again: they are a
    /// thin product, and nobody has to keep them.
    pub fn backward<O: Ops>(
        &self,
        pass: Pass<'_, O>,
        d_y: &O::Buf,
        x: &O::Buf,
        d_x: &mut O::Buf,
        grads: &mut Gradients<O>,
    ) {
        let ops = pass.ops;
        let dropped = self.dropped(pass, x);
        let input = dropped.as_ref().unwrap_or(x);
        let inner = self.inner(pass, input);
        let mut d_inner = ops.zeros(ops.len(&inner));
        for (i, (outputs, b)) in self.parts.iter().enumerate() {
            // y[:, outputs] += part B^T
            let part = ops.columns_forward(&inner, self.inner_width(), self.columns(i));
            let d_added = ops.columns_forward(d_y, self.outputs, outputs.clone());
            let grads = LinearGrads { d_weight: &mut grads.list[b.0], d_bias: None };
            let d_part = ops.linear_backward(&d_added, &part, pass.params.weight(*b), Some(grads));
            ops.columns_backward(&d_part, self.inner_width(), self.columns(i), &mut d_inner);
        }
        // inner = scale input A^T
        ops.scale(&mut d_inner, self.scale);
        let grads = LinearGrads { d_weight: &mut grads.list[self.a.0], d_bias: None };
        let d_input = ops.linear_backward(&d_inner, input, pass.params.weight(self.a), Some(grads));
        // input = dropout(x)
        match self.dropout(pass) {
            Some(dropout) => {
                ops.add_assign(d_x, &ops.dropout_backward(&d_input, pass.texts, dropout, self.inputs));
            }
            None => ops.add_assign(d_x, &d_input),
        }
    }

    fn inner<O: Ops>(&self, pass: Pass<'_, O>, input: &O::Buf) -> O::Buf {
        let mut inner = pass.ops.linear_forward(input, pass.params.weight(self.a), None);
        pass.ops.scale(&mut inner, self.scale);
        inner
    }

    fn dropped<O: Ops>(&self, pass: Pass<'_, O>, x: &O::Buf) -> Option<O::Buf> {
        self.dropout(pass).map(|dropout| pass.ops.dropout_forward(x, pass.texts, dropout, self.inputs))
    }

    fn dropout<O: Ops>(&self, pass: Pass<'_, O>) -> Option<Dropout> {
        let p = pass.dropout.adapter;
        (p > 0.0).then_some(Dropout { p, site: self.site })
    }

    fn inner_width(&self) -> usize {
        self.rank * self.parts.len()
    }

    /// Of the inner vectors, for a part.
    fn columns(&self, part: usize) -> Range<usize> {
        part * self.rank..(part + 1) * self.rank
    }

    /// `w += scale B A`, on the host; `w`: `[outputs, inputs]`.
    fn merge_into<O: Ops>(&self, ops: &O, params: &Parameters<O>, w: &mut [f32]) {
        let a = ops.download(params.value(self.a));
        for (part, (outputs, b)) in self.parts.iter().enumerate() {
            let a = &a[part * self.rank * self.inputs..][..self.rank * self.inputs];
            let b = ops.download(params.value(*b));
            let rows = &mut w[outputs.start * self.inputs..outputs.end * self.inputs];
            for (w, b) in rows.chunks_exact_mut(self.inputs).zip(b.chunks_exact(self.rank)) {
                for (a, b) in a.chunks_exact(self.inputs).zip(b) {
                    w.iter_mut().zip(a).for_each(|(w, a)| *w += self.scale * b * a);
                }
            }
        }
    }
}

/// The values of a tensor of the model with its adapter merged.
pub fn merged<O: Ops>(ops: &O, params: &Parameters<O>, param: &Param<O>) -> Vec<f32> {
    let mut values = ops.download(&param.value);
    if let Some(adapter) = &param.adapter {
        adapter.merge_into(ops, params, &mut values);
    }
    values
}

/// Gives linear layers adapters, and freezes all weights that were there before. `init(name, rows, inputs)` is the first value of an `A`.
///
/// # Errors
/// A target that is no linear layer of the encoder, or no layer that is left.
pub fn attach<O: Ops>(
    ops: &O,
    params: &mut Parameters<O>,
    config: &LoraConfig,
    init: impl Fn(&str, usize, usize) -> Vec<f32>,
) -> Result<()> {
    let refuse = |problem: String, hint: String| Err(Error::Setting { problem, hint: Some(hint) });
    let is_layer = |param: &Param<O>| matches!((param.kind, param.depth), (Kind::Matrix { .. }, Depth::Layer(_)));
    let modules: Vec<_> =
        params.list.iter().filter(|param| is_layer(param)).flat_map(|param| &param.parts).map(module).collect();
    for target in config.targets.iter().filter(|target| *target != ALL_LINEAR) {
        if !modules.iter().any(|module| ends_with(module, target)) {
            let mut names: Vec<_> = modules.iter().filter_map(|module| module.rsplit('.').next()).collect();
            names.sort_unstable();
            names.dedup();
            return refuse(
                format!("`--lora_target_modules {target}` is the name of no linear layer of the encoder"),
                format!("it has {}; `{ALL_LINEAR}` stands for all of them", names.join(", ")),
            );
        }
    }
    params.list.iter_mut().for_each(|param| param.rate = 0.0);
    let n_own = params.list.len();
    for i in 0..n_own {
        let param = &params.list[i];
        let (Kind::Matrix { rows, cols: inputs }, Depth::Layer(layer)) = (param.kind, param.depth) else { continue };
        let outputs_of_part = rows / param.parts.len();
        let covered = |part: &Part| layer >= config.first_layer && config.covers(module(part));
        let names: Vec<_> = param
            .parts
            .iter()
            .enumerate()
            .filter(|(_, part)| covered(part))
            .map(|(place, part)| (place * outputs_of_part..(place + 1) * outputs_of_part, module(part).to_owned()))
            .collect();
        if names.is_empty() {
            continue;
        }
        let rank = config.rank;
        let part = |module: &str, factor: &str, shape: [usize; 2]| Part {
            name: format!("{module}.lora_{factor}.weight"),
            shape: shape.to_vec(),
        };
        let a_parts: Vec<_> = names.iter().map(|(_, module)| part(module, "A", [rank, inputs])).collect();
        let values: Vec<_> = a_parts.iter().flat_map(|part| init(&part.name, rank, inputs)).collect();
        let a = params.add(ops, a_parts, Kind::Adapter { rows: names.len() * rank, cols: inputs }, &values);
        let parts = names.into_iter().map(|(outputs, module)| {
            let b = part(&module, "B", [outputs.len(), rank]);
            let kind = Kind::Adapter { rows: outputs.len(), cols: rank };
            let values = vec![0.0; outputs.len() * rank];
            (outputs, params.add(ops, vec![b], kind, &values))
        });
        let parts = parts.collect();
        let site = FIRST_SITE + i as u32;
        params.list[i].adapter = Some(Adapter { a, parts, rank, inputs, outputs: rows, scale: config.scale(), site });
    }
    if params.list.len() == n_own {
        return refuse(
            format!("`--freeze_layers {}` leaves no layer for an adapter", config.first_layer),
            "freeze fewer layers".into(),
        );
    }
    Ok(())
}

/// Name of the layer that a weight belongs to.
fn module(part: &Part) -> &str {
    part.name.strip_suffix(".weight").unwrap_or(&part.name)
}

/// Multiplies what the adapters add by `factor`, from what `config` says.
pub fn rescale<O: Ops>(params: &mut Parameters<O>, config: &LoraConfig, factor: f64) {
    for adapter in params.list.iter_mut().filter_map(|param| param.adapter.as_mut()) {
        adapter.scale = (f64::from(config.scale()) * factor) as f32;
    }
}

/// Writes the adapters into `folder` as PEFT does; `factor` is that of [`rescale`].
///
/// # Errors
/// What the file system says.
pub fn save<O: Ops>(ops: &O, params: &Parameters<O>, config: &LoraConfig, factor: f64, folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).map_err(Error::io(folder, "create"))?;
    let mut outputs = Vec::new();
    for param in params.of_adapters() {
        let mut start = 0;
        for part in &param.parts {
            let range = start..start + part.len();
            start = range.end;
            let values = move || ops.download(&param.value)[range.clone()].to_vec();
            outputs.push(Output::weights(format!("{PREFIX}{}", part.name), part.shape.clone(), values));
        }
    }
    tensor_files::write(&folder.join(WEIGHTS), outputs)?;
    let path = folder.join(CONFIG);
    let text = format!("{:#}\n", described(params, config, factor));
    File::create_new(&path)
        .and_then(|mut file| {
            file.write_all(text.as_bytes())?;
            file.sync_all()
        })
        .map_err(Error::io(&path, "write"))
}

/// `adapter_config.json`. The targets are written out to the layer, since PEFT's `dense` would also cover the pooler, which has no adapter.
fn described<O: Ops>(params: &Parameters<O>, config: &LoraConfig, factor: f64) -> serde_json::Value {
    let a = params.of_adapters().flat_map(|param| &param.parts).filter(|part| part.name.ends_with(".lora_A.weight"));
    let in_layer = |name: &str| {
        let rest = name.split_once(".layer.").map_or(name, |(_, rest)| rest);
        let module = rest.split_once('.').map_or(rest, |(_, module)| module);
        module.trim_end_matches(".lora_A.weight").to_owned()
    };
    let mut targets: Vec<_> = a.map(|part| in_layer(&part.name)).collect();
    targets.sort_unstable();
    targets.dedup();
    let layers = |param: &Param<O>| match param.depth {
        Depth::Layer(layer) => Some(layer),
        Depth::Embeddings | Depth::Head => None,
    };
    let n_layers = params.own().filter_map(layers).max().map_or(0, |last| last + 1);
    let (only, pattern) = match config.first_layer {
        0 => (None, None),
        first => (Some((first..n_layers).collect::<Vec<_>>()), Some("layer")),
    };
    json!({
        "peft_type": "LORA",
        "task_type": "FEATURE_EXTRACTION",
        "base_model_name_or_path": config.base,
        "inference_mode": true,
        "r": config.rank,
        "lora_alpha": config.alpha * factor,
        "lora_dropout": config.dropout,
        "use_rslora": config.rank_stabilized,
        "target_modules": targets,
        "layers_to_transform": only,
        "layers_pattern": pattern,
        "bias": "none",
        "fan_in_fan_out": false,
        "init_lora_weights": true,
        "modules_to_save": null,
    })
}

/// Takes `A` and `B` from what [`save`] wrote.
///
/// # Errors
/// Files that are damaged, or are of other adapters. Nothing is changed, then.
pub fn restore<O: Ops>(ops: &O, params: &mut Parameters<O>, folder: &Path) -> Result<()> {
    let file = TensorFiles::open_file(&folder.join(WEIGHTS))?;
    let mut read = Vec::new();
    for param in params.of_adapters() {
        let mut values = Vec::new();
        for part in &param.parts {
            let name = format!("{PREFIX}{}", part.name);
            if file.shape(&name) != Some(&part.shape) {
                return Err(Error::Model {
                    path: folder.join(WEIGHTS),
                    problem: format!("has no tensor `{name}` of the shape {:?}", part.shape),
                    hint: Some("the adapter is of another model or rank".into()),
                });
            }
            values.append(&mut file.read(&name)?);
        }
        read.push(values);
    }
    let adapters = params.list.iter_mut().filter(|param| matches!(param.kind, Kind::Adapter { .. }));
    for (param, values) in adapters.zip(read) {
        param.value = ops.upload(&values);
        param.repack(ops);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_matched_as_in_peft() {
        let of = |targets: &[&str]| LoraConfig {
            rank: 4,
            alpha: 8.0,
            rank_stabilized: false,
            dropout: 0.0,
            targets: targets.iter().map(|target| (*target).to_owned()).collect(),
            first_layer: 0,
            base: String::new(),
        };
        let module = "encoder.layer.0.attention.output.dense";
        for (targets, expected) in [
            (&["dense"][..], true),
            (&["query", "output.dense"], true),
            (&["put.dense"], false),
            (&["query"], false),
            (&[ALL_LINEAR], true),
        ] {
            assert_eq!(of(targets).covers(module), expected, "{targets:?}");
        }
        assert_eq!((of(&[]).scale(), LoraConfig { rank_stabilized: true, ..of(&[]) }.scale()), (2.0, 4.0));
    }
}

//! The tensors of a model, in one list that layers index, optimizers walk and checkpoints name, and which of them are trained.

use embertune_kernels::Ops;
use embertune_kernels::ops::Weight;

use super::lora::Adapter;

/// Index of a tensor in [`Parameters`] and in [`Gradients`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ParamId(pub usize);

/// Part of a tensor as the checkpoint knows it. Most tensors have one part; the fused `[3 hidden, hidden]` attention input
/// has three (query, key, value), stacked by rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// Name in the checkpoint without a prefix like `bert.`: `encoder.layer.0.attention.self.query.weight`.
    pub name: String,
    /// Shape in the checkpoint.
    pub shape: Vec<usize>,
}

impl Part {
    /// Number of elements.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether the part has no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// How a tensor is used, which decides weight decay and packing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The weight of a linear layer, `[rows, cols]`: packed for products, decayed.
    Matrix {
        /// Outputs.
        rows: usize,
        /// Inputs.
        cols: usize,
    },
    /// One of the two factors of a low-rank adapter, `[rows, cols]`: packed and decayed as a matrix, but no tensor of the model's file.
    Adapter {
        /// Outputs.
        rows: usize,
        /// Inputs.
        cols: usize,
    },
    /// An embedding table: decayed.
    Table,
    /// A bias, or a table whose name holds `bias` (MPNet's `relative_attention_bias`, which Hugging Face's Trainer does
    /// not decay either): not decayed.
    Bias,
    /// A parameter of a LayerNorm: not decayed.
    Norm,
}

impl Kind {
    /// Whether AdamW's weight decay applies.
    pub fn decays(self) -> bool {
        matches!(self, Kind::Matrix { .. } | Kind::Adapter { .. } | Kind::Table)
    }
}

/// How far from the input a tensor is used. The backward goes down to the lowest one that is trained.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Depth {
    /// Tables of the embeddings, their LayerNorm, and the bias by distance that all layers of MPNet share.
    Embeddings,
    /// A layer of the encoder, from 0.
    Layer(usize),
    /// A dense layer after the pooling.
    Head,
}

impl Depth {
    fn of(name: &str) -> Self {
        let layer = ["encoder.layer.", "transformer.layer."].iter().find_map(|layers| name.strip_prefix(layers));
        match layer.and_then(|rest| rest.split('.').next()?.parse().ok()) {
            Some(layer) => Depth::Layer(layer),
            None if name.starts_with("embeddings.") || name.starts_with("encoder.") => Depth::Embeddings,
            None => Depth::Head,
        }
    }
}

/// One tensor of the model on the device.
pub struct Param<O: Ops> {
    /// What it is in the checkpoint, in the order of its rows.
    pub parts: Vec<Part>,
    /// How it is used.
    pub kind: Kind,
    /// Where it is used.
    pub depth: Depth,
    /// Factor on the learning rate: 1 unless set otherwise; 0 where it is not trained, and has neither gradient nor moments.
    pub rate: f64,
    /// The master weights, f32.
    pub value: O::Buf,
    /// The form for matrix products, of a [`Kind::Matrix`] or [`Kind::Adapter`].
    pub packed: Option<O::Packed>,
    /// What is added to its products, of a [`Kind::Matrix`] with an adapter.
    pub adapter: Option<Adapter>,
}

impl<O: Ops> Param<O> {
    /// Whether the training changes it.
    pub fn is_trained(&self) -> bool {
        self.rate > 0.0
    }

    /// Number of values.
    pub fn n_values(&self) -> usize {
        self.parts.iter().map(Part::len).sum()
    }

    /// Packs it again, where it is a matrix. To be called after its values changed.
    pub fn repack(&mut self, ops: &O) {
        self.packed = pack(ops, self.kind, &self.value);
    }
}

/// All tensors of a model.
pub struct Parameters<O: Ops> {
    /// In checkpoint order; [`ParamId`] indexes it.
    pub list: Vec<Param<O>>,
}

impl<O: Ops> Default for Parameters<O> {
    fn default() -> Self {
        Parameters { list: Vec::new() }
    }
}

impl<O: Ops> Parameters<O> {
    /// Adds a tensor from host values and packs it where it is a matrix.
    pub fn add(&mut self, ops: &O, parts: Vec<Part>, kind: Kind, values: &[f32]) -> ParamId {
        assert_eq!(parts.iter().map(Part::len).sum::<usize>(), values.len(), "{:?}", parts[0].name);
        let value = ops.upload(values);
        let packed = pack(ops, kind, &value);
        let depth = Depth::of(&parts[0].name);
        self.list.push(Param { parts, kind, depth, rate: 1.0, value, packed, adapter: None });
        ParamId(self.list.len() - 1)
    }

    /// The values of a tensor.
    pub fn value(&self, id: ParamId) -> &O::Buf {
        &self.list[id.0].value
    }

    /// A matrix, ready for a product.
    pub fn weight(&self, id: ParamId) -> Weight<'_, O> {
        let param = &self.list[id.0];
        let (Kind::Matrix { rows, cols } | Kind::Adapter { rows, cols }, Some(packed)) = (param.kind, &param.packed)
        else {
            panic!("`{}` is no matrix", param.parts[0].name)
        };
        Weight { master: &param.value, packed, rows, cols }
    }

    /// The model's own tensors, without those of adapters.
    pub fn own(&self) -> impl Iterator<Item = &Param<O>> {
        self.list.iter().filter(|param| !matches!(param.kind, Kind::Adapter { .. }))
    }

    /// The tensors of adapters.
    pub fn of_adapters(&self) -> impl Iterator<Item = &Param<O>> {
        self.list.iter().filter(|param| matches!(param.kind, Kind::Adapter { .. }))
    }

    /// Packs every matrix again. To be called after the values changed.
    pub fn repack(&mut self, ops: &O) {
        self.list.iter_mut().for_each(|param| param.repack(ops));
    }

    /// A zero gradient for every tensor that is trained, an empty one for the others.
    pub fn zero_gradients(&self, ops: &O) -> Gradients<O> {
        let len = |param: &Param<O>| if param.is_trained() { ops.len(&param.value) } else { 0 };
        Gradients { list: self.list.iter().map(|param| ops.zeros(len(param))).collect() }
    }

    /// What is added to the products of a matrix.
    pub fn adapter(&self, id: ParamId) -> Option<&Adapter> {
        self.list[id.0].adapter.as_ref()
    }

    /// Whether the training changes a tensor.
    pub fn is_trained(&self, id: ParamId) -> bool {
        self.list[id.0].is_trained()
    }

    /// The depth of the lowest tensor that is trained: nothing below it needs a backward. `None` where none is.
    pub fn lowest_trained(&self) -> Option<Depth> {
        self.list.iter().filter(|param| param.is_trained()).map(|param| param.depth).min()
    }

    /// Number of values of each tensor, 0 where it is not trained.
    pub fn trained_lens(&self) -> Vec<usize> {
        self.list.iter().map(|param| if param.is_trained() { param.n_values() } else { 0 }).collect()
    }

    /// Number of values that are trained.
    pub fn n_trained(&self) -> usize {
        self.trained_lens().iter().sum()
    }
}

fn pack<O: Ops>(ops: &O, kind: Kind, value: &O::Buf) -> Option<O::Packed> {
    match kind {
        Kind::Matrix { rows, cols } | Kind::Adapter { rows, cols } => Some(ops.pack(value, rows, cols)),
        Kind::Table | Kind::Bias | Kind::Norm => None,
    }
}

/// The gradient of every tensor of [`Parameters`], in the same order.
pub struct Gradients<O: Ops> {
    /// [`ParamId`] indexes it.
    pub list: Vec<O::Buf>,
}

/// Called in a backward with a depth, when it adds nothing more to the gradients of that depth and of all above it.
pub type Completed<'a, O> = dyn FnMut(Depth, &mut Gradients<O>) + 'a;

impl<O: Ops> Gradients<O> {
    /// Sets all gradients to zero.
    pub fn set_zero(&mut self, ops: &O) {
        for g in &mut self.list {
            ops.set_zero(g);
        }
    }

    /// The gradients of different tensors, to add to at once.
    pub fn several<const N: usize>(&mut self, ids: [ParamId; N]) -> [&mut O::Buf; N] {
        self.list.get_disjoint_mut(ids.map(|id| id.0)).expect("different tensors of the model")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn depth_follows_from_the_name() {
        for (name, depth) in [
            ("embeddings.LayerNorm.weight", Depth::Embeddings),
            ("encoder.relative_attention_bias.weight", Depth::Embeddings),
            ("encoder.layer.11.attention.self.query.weight", Depth::Layer(11)),
            ("encoder.layer.0.output.dense.lora_A.weight", Depth::Layer(0)),
            ("transformer.layer.3.ffn.lin1.bias", Depth::Layer(3)),
            ("2_Dense.linear.weight", Depth::Head),
        ] {
            assert_eq!(Depth::of(name), depth, "{name}");
        }
        assert!(
            Depth::Embeddings < Depth::Layer(0) && Depth::Layer(1) < Depth::Layer(2) && Depth::Layer(9) < Depth::Head
        );
    }
}

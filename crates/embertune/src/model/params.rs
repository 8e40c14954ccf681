//! The trainable tensors of a model, in one list that layers index, optimizers walk and checkpoints name.

use embertune_kernels::Ops;
use embertune_kernels::ops::Weight;

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
        matches!(self, Kind::Matrix { .. } | Kind::Table)
    }
}

/// One trainable tensor on the device.
pub struct Param<O: Ops> {
    /// What it is in the checkpoint, in the order of its rows.
    pub parts: Vec<Part>,
    /// How it is used.
    pub kind: Kind,
    /// The master weights, f32.
    pub value: O::Buf,
    /// The form for matrix products, of a [`Kind::Matrix`].
    pub packed: Option<O::Packed>,
}

/// All trainable tensors of a model.
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
        self.list.push(Param { parts, kind, value, packed });
        ParamId(self.list.len() - 1)
    }

    /// The values of a tensor.
    pub fn value(&self, id: ParamId) -> &O::Buf {
        &self.list[id.0].value
    }

    /// A matrix, ready for a product.
    pub fn weight(&self, id: ParamId) -> Weight<'_, O> {
        let param = &self.list[id.0];
        let (Kind::Matrix { rows, cols }, Some(packed)) = (param.kind, &param.packed) else {
            panic!("`{}` is no matrix", param.parts[0].name)
        };
        Weight { master: &param.value, packed, rows, cols }
    }

    /// Packs every matrix again. To be called after the values changed.
    pub fn repack(&mut self, ops: &O) {
        for param in &mut self.list {
            param.packed = pack(ops, param.kind, &param.value);
        }
    }

    /// A zero gradient for every tensor.
    pub fn zero_gradients(&self, ops: &O) -> Gradients<O> {
        Gradients { list: self.list.iter().map(|p| ops.zeros(ops.len(&p.value))).collect() }
    }

    /// Number of trainable values.
    pub fn n_values(&self) -> usize {
        self.list.iter().flat_map(|p| &p.parts).map(Part::len).sum()
    }
}

fn pack<O: Ops>(ops: &O, kind: Kind, value: &O::Buf) -> Option<O::Packed> {
    match kind {
        Kind::Matrix { rows, cols } => Some(ops.pack(value, rows, cols)),
        Kind::Table | Kind::Bias | Kind::Norm => None,
    }
}

/// The gradient of every tensor of [`Parameters`], in the same order.
pub struct Gradients<O: Ops> {
    /// [`ParamId`] indexes it.
    pub list: Vec<O::Buf>,
}

impl<O: Ops> Gradients<O> {
    /// Sets all gradients to zero.
    pub fn set_zero(&mut self, ops: &O) {
        for g in &mut self.list {
            ops.set_zero(g);
        }
    }

    /// Two gradients to add to at once, of a layer's weight and bias.
    pub fn pair(&mut self, a: ParamId, b: ParamId) -> (&mut O::Buf, &mut O::Buf) {
        let [a, b] = self.list.get_disjoint_mut([a.0, b.0]).expect("two different tensors of the model");
        (a, b)
    }
}

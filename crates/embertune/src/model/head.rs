//! From token vectors to embeddings: pooling, optional dense layers, normalisation.

use std::path::Path;

use embertune_kernels::Ops;
use embertune_kernels::ops::{Activation, Pooling};

use super::folder::{DenseConfig, Modules};
use super::linear::Linear;
use super::params::{Gradients, Kind, Parameters, Part};
use super::pass::Pass;
use super::tensor_files::TensorFiles;
use crate::{Error, Result};

/// Everything after the encoder.
pub struct Head {
    pooling: Pooling,
    dense: Vec<Dense>,
    normalize: bool,
    hidden: usize,
    dim: usize,
}

struct Dense {
    linear: Linear,
    activation: Activation,
}

/// What the backward needs, besides the last hidden state.
pub struct HeadSaved<B> {
    dense: Vec<DenseSaved<B>>,
    /// The vectors before normalisation, `[n_texts, dim]`; kept only where they are normalised.
    unnormalized: Option<B>,
}

struct DenseSaved<B> {
    x: B,
    /// Before the activation.
    inner: B,
}

impl Head {
    /// A head on vectors of width `hidden`. The weights of dense layers are read below `folder` and added to `parameters`.
    ///
    /// # Errors
    /// If the widths do not fit each other, or weights are missing.
    pub fn load<O: Ops>(
        ops: &O,
        folder: &Path,
        hidden: usize,
        modules: &Modules,
        parameters: &mut Parameters<O>,
    ) -> Result<Self> {
        let mut dim = hidden;
        let mut layers = Vec::new();
        for config in &modules.dense {
            let path = folder.join(&config.folder);
            if config.in_features != dim {
                let problem = format!("`in_features` is {}, but the vectors have width {dim}", config.in_features);
                return Err(Error::Model { path: path.join("config.json"), problem, hint: None });
            }
            layers.push(load_dense(ops, &path, config, parameters)?);
            dim = config.out_features;
        }
        Ok(Head { pooling: modules.pooling, dense: layers, normalize: modules.normalize, hidden, dim })
    }

    /// Width of an embedding.
    pub fn dim(&self) -> usize {
        self.dim
    }

    /// `hidden`: `[n_tokens, hidden]`. Returns `[n_texts, dim]`.
    pub fn forward<O: Ops>(&self, pass: Pass<'_, O>, hidden: &O::Buf, skip: &[u32]) -> (O::Buf, HeadSaved<O::Buf>) {
        let mut x = pass.ops.pool_forward(hidden, pass.texts, skip, self.pooling, self.hidden);
        let mut dense = Vec::with_capacity(self.dense.len());
        for layer in &self.dense {
            let inner = layer.linear.forward(pass, &x);
            let y = pass.ops.activation_forward(&inner, layer.activation);
            dense.push(DenseSaved { x, inner });
            x = y;
        }
        if self.normalize {
            let y = pass.ops.normalize_forward(&x, self.dim);
            (y, HeadSaved { dense, unnormalized: Some(x) })
        } else {
            (x, HeadSaved { dense, unnormalized: None })
        }
    }

    /// `hidden` and `skip` are those of the forward. Returns `d_hidden`.
    pub fn backward<O: Ops>(
        &self,
        pass: Pass<'_, O>,
        hidden: &O::Buf,
        skip: &[u32],
        saved: &HeadSaved<O::Buf>,
        d_y: O::Buf,
        grads: &mut Gradients<O>,
    ) -> O::Buf {
        // y = x / |x|
        let mut d_x = match &saved.unnormalized {
            Some(x) => pass.ops.normalize_backward(&d_y, x, self.dim),
            None => d_y,
        };
        for (layer, saved) in self.dense.iter().zip(&saved.dense).rev() {
            // x = act(inner); inner = linear(x)
            let d_inner = pass.ops.activation_backward(&d_x, &saved.inner, layer.activation);
            d_x = layer.linear.backward(pass, &d_inner, &saved.x, grads);
        }
        // x = pool(hidden)
        pass.ops.pool_backward(&d_x, hidden, pass.texts, skip, self.pooling, self.hidden)
    }
}

/// Prefix of a dense layer's tensors among the parameters; in their own file they are `linear.weight` and `linear.bias`.
pub fn dense_prefix(folder: &str) -> String {
    format!("{folder}.")
}

fn load_dense<O: Ops>(ops: &O, folder: &Path, config: &DenseConfig, parameters: &mut Parameters<O>) -> Result<Dense> {
    let files = TensorFiles::open(folder)?;
    let (rows, cols) = (config.out_features, config.in_features);
    let mut tensor = |name: &str, shape: &[usize], kind: Kind| {
        match files.shape(name) {
            Some(there) if there != shape => {
                let problem = format!("the tensor `{name}` has the shape {there:?}, `config.json` makes it {shape:?}");
                return Err(Error::Model { path: folder.to_owned(), problem, hint: None });
            }
            _ => {}
        }
        let part = Part { name: format!("{}{name}", dense_prefix(&config.folder)), shape: shape.to_vec() };
        Ok(parameters.add(ops, vec![part], kind, &files.read(name)?))
    };
    let weight = tensor("linear.weight", &[rows, cols], Kind::Matrix { rows, cols })?;
    let bias = if config.bias { Some(tensor("linear.bias", &[rows], Kind::Bias)?) } else { None };
    let known = |name: &str| name == "linear.weight" || (config.bias && name == "linear.bias");
    if let Some(name) = files.names().find(|name| !known(name)) {
        let problem = format!("the tensor `{name}` should not be there by `config.json`");
        return Err(Error::Model { path: folder.to_owned(), problem, hint: None });
    }
    Ok(Dense { linear: Linear::new(weight, bias), activation: config.activation })
}

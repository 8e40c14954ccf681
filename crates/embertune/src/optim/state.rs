//! What an optimizer remembers from step to step, in a file of a checkpoint.

use std::path::Path;

use embertune_kernels::Ops;

use crate::error::{Error, Result};
use crate::model::tensor_files::{Output, TensorFiles, write};
use crate::model::{Param, Parameters};

/// One kind of moments, a buffer for each tensor of the parameters; empty where there is none.
pub struct State<O: Ops> {
    /// Its name in PyTorch.
    pub suffix: &'static str,
    /// In the order of the parameters.
    pub list: Vec<O::Buf>,
}

/// Writes moments as safetensors, named as in PyTorch: `<tensor>.exp_avg`, say, where a parameter that is several tensors of the model has
/// the name of the first.
///
/// # Errors
/// What the file system says.
pub fn save<O: Ops>(ops: &O, parameters: &Parameters<O>, states: [&State<O>; 2], path: &Path) -> Result<()> {
    let mut outputs = Vec::new();
    for state in states {
        for (param, moment) in parameters.list.iter().zip(&state.list) {
            let len = ops.len(moment);
            if len > 0 {
                outputs.push(Output::weights(name_of(param, state.suffix), vec![len], || ops.download(moment)));
            }
        }
    }
    write(path, outputs)
}

/// Takes the moments that [`save`] wrote.
///
/// # Errors
/// Where the file is damaged, or is of another model.
pub fn restore<O: Ops>(ops: &O, parameters: &Parameters<O>, states: [&mut State<O>; 2], path: &Path) -> Result<()> {
    let file = TensorFiles::open_file(path)?;
    for state in states {
        for (param, moment) in parameters.list.iter().zip(&mut state.list) {
            let len = ops.len(moment);
            if len == 0 {
                continue;
            }
            let name = name_of(param, state.suffix);
            let values = file.read(&name)?;
            if values.len() != len {
                return Err(Error::Model {
                    path: path.into(),
                    problem: format!("`{name}` has {} values instead of {len}", values.len()),
                    hint: None,
                });
            }
            *moment = ops.upload(&values);
        }
    }
    Ok(())
}

/// The name of a tensor's moments in the file.
pub fn name_of<O: Ops>(param: &Param<O>, suffix: &str) -> String {
    format!("{}.{suffix}", param.parts[0].name)
}

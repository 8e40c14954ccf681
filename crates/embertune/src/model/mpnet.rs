//! What MPNet does otherwise than RoBERTa: a bias by distance in every attention.
//!
//! Source: `transformers`, `models/mpnet/modeling_mpnet.py`; the buckets are those of T5.

use embertune_kernels::Ops;
use embertune_kernels::ops::RelativeBias;

use super::config::EncoderConfig;
use super::json_file::JsonFile;
use super::loader::Loader;
use super::params::{Kind, ParamId, Parameters};
use crate::Result;

/// The padding token, and the row of the position table that stands for it. `transformers` has the number in its code
/// and does not read `pad_token_id`.
pub const PADDING: u32 = 1;
/// `transformers` computes with 32 buckets whatever `config.json` says.
const BUCKETS: usize = 32;
/// Distances from here on share the last bucket.
const MAX_DISTANCE: f32 = 128.0;

/// Refuses what cannot be computed.
pub fn check_config(file: &JsonFile) -> Result<()> {
    let buckets = file.size("relative_attention_num_buckets")?.unwrap_or(BUCKETS);
    if buckets != BUCKETS {
        let problem = format!("`relative_attention_num_buckets` is {buckets}; supported is {BUCKETS}");
        return Err(file.error(problem, None));
    }
    Ok(())
}

/// The bias by distance that all layers share.
pub struct RelativePositions {
    table: ParamId,
    bucket_of: Vec<u32>,
    max_len: usize,
}

impl RelativePositions {
    /// Takes `encoder.relative_attention_bias.weight` from the checkpoint.
    pub fn load<O: Ops>(loader: &mut Loader<'_, O>, config: &EncoderConfig) -> Result<Self> {
        let name = "encoder.relative_attention_bias.weight";
        let table = loader.tensor(name, &[BUCKETS, config.heads.heads], Kind::Bias)?;
        let max_len = config.longest_text();
        let reach = max_len as i64 - 1;
        Ok(RelativePositions { table, bucket_of: (-reach..=reach).map(bucket).collect(), max_len })
    }

    /// The form that attention takes.
    pub fn bias<'a, O: Ops>(&'a self, params: &'a Parameters<O>) -> RelativeBias<'a, O::Buf> {
        RelativeBias { table: params.value(self.table), bucket_of: &self.bucket_of, max_len: self.max_len }
    }

    /// The table.
    pub fn table(&self) -> ParamId {
        self.table
    }
}

/// Bucket of the distance `key - query`: one each for the near ones, then logarithmically wider ones; keys after the query
/// have the second half. The logarithm is in f32 as in PyTorch, which decides the buckets at 16, 32 and 64.
pub fn bucket(distance: i64) -> u32 {
    let half = BUCKETS as u32 / 2;
    let exact = half / 2;
    let first = if distance > 0 { half } else { 0 };
    let n = distance.unsigned_abs() as u32;
    if n < exact {
        return first + n;
    }
    let ratio = (n as f32 / exact as f32).ln() / (MAX_DISTANCE / exact as f32).ln();
    let far = exact + (ratio * (half - exact) as f32) as u32;
    first + far.min(half - 1)
}

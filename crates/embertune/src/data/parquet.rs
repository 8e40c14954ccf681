//! The rows of a Parquet file, in builds with the feature `parquet`; the others say so.
//!
//! A feature, since the crate costs 70 seconds of CPU time to build (docs/LOG.md).

use std::path::Path;

use serde_json::{Map, Value};

use super::packed::Packing;
use crate::error::{Error, Result};

/// Reads the rows of a file; each comes with its number, from 1.
///
/// # Errors
/// A file that is damaged, packed as a whole, or has columns of a type that no row needs; errors of `take`; a build without the feature.
#[cfg(not(feature = "parquet"))]
pub fn for_each_row(
    path: &Path,
    _packing: Packing,
    _take: impl FnMut(usize, Map<String, Value>) -> Result<()>,
) -> Result<()> {
    Err(Error::Data {
        path: path.to_path_buf(),
        problem: "this is a Parquet file, and this program was built without the feature `parquet`".into(),
        hint: Some(
            "build with `cargo build --release --features parquet`, or make JSON lines of it: \
             `pandas.read_parquet(\"in.parquet\").to_json(\"out.jsonl\", orient=\"records\", lines=True)`"
                .into(),
        ),
    })
}

//! Vectors that several ranks make together: each encodes its part of the chunks that one process would make, and gets the others' from
//! the others. So all ranks have the vectors of one process, to the last bit.
//!
//! All ranks have all texts, and tokenize them: that is a small part of encoding them, and where a chunk ends depends on all texts.

use embertune_kernels::Ops;
use xxhash_rust::xxh3::Xxh3Default;

use super::Vectors;
use crate::comm::{Communicator, PIECE_BYTES, expect_same, floats, to_bytes};
use crate::error::Result;
use crate::model::EmbeddingModel;

/// Checks that all ranks are about to embed the same texts with the same model in the same chunks.
///
/// # Errors
/// Names the first rank that is not.
pub(super) fn check_alike<O: Ops>(
    model: &EmbeddingModel<O>,
    texts: &[&str],
    batch_size: usize,
    ranks: &dyn Communicator,
) -> Result<()> {
    if ranks.size() == 1 {
        return Ok(());
    }
    let mut of_texts = Xxh3Default::new();
    for text in texts {
        of_texts.update(&(text.len() as u64).to_le_bytes());
        of_texts.update(text.as_bytes());
    }
    of_texts.update(&(batch_size as u64).to_le_bytes());
    expect_same(ranks, "list of texts or `--batch_size`", &format!("{:x}", of_texts.digest128()))?;
    expect_same(ranks, "model", &format!("{:x}", model.hash()))
}

/// Fills in what the other ranks made. `rows_of[r]` are the rows of `values`, `[n, dim]`, that rank `r` made, those of equal vectors together.
///
/// # Errors
/// Those of [`Communicator::exchange`].
pub(super) fn fill_in(
    rows_of: &[Vec<&[usize]>],
    dim: usize,
    ranks: &dyn Communicator,
    values: &mut [f32],
) -> Result<()> {
    let n_bytes = dim * size_of::<f32>();
    let piece = (PIECE_BYTES / ranks.size() / n_bytes).max(1);
    let longest = rows_of.iter().map(Vec::len).max().unwrap_or(0);
    for start in (0..longest).step_by(piece) {
        let of_piece = |rank: usize| rows_of[rank].iter().skip(start).take(piece);
        let own: Vec<f32> = of_piece(ranks.rank()).flat_map(|rows| &values[rows[0] * dim..][..dim]).copied().collect();
        for (rank, bytes) in ranks.all_gather_bytes(&to_bytes(&own))?.iter().enumerate() {
            ranks.expect(rank, bytes.len(), of_piece(rank).count() * n_bytes)?;
            for (rows, vector) in of_piece(rank).zip(bytes.chunks_exact(n_bytes)) {
                for &row in *rows {
                    values[row * dim..][..dim].iter_mut().zip(floats(vector)).for_each(|(to, x)| *to = x);
                }
            }
        }
    }
    Ok(())
}

/// Makes `rows` of `vectors` those of rank 0.
///
/// # Errors
/// Those of [`Communicator::exchange`].
pub(super) fn take_from_first(rows: &[usize], ranks: &dyn Communicator, vectors: &mut Vectors) -> Result<()> {
    if ranks.size() == 1 {
        return Ok(());
    }
    let dim = vectors.dim;
    for rows in rows.chunks((PIECE_BYTES / (dim * size_of::<f32>())).max(1)) {
        let own: Vec<f32> = rows.iter().flat_map(|&row| vectors.row(row)).copied().collect();
        let of_first = ranks.broadcast(&to_bytes(&own))?;
        ranks.expect(0, of_first.len(), size_of_val(own.as_slice()))?;
        let mut of_first = floats(&of_first);
        for &row in rows {
            vectors.values[row * dim..][..dim].iter_mut().zip(&mut of_first).for_each(|(to, x)| *to = x);
        }
    }
    Ok(())
}

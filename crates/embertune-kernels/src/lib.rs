//! The arithmetic of a transformer encoder on ragged batches: buffers in, buffers out.
//!
//! This crate knows nothing of models, files or text. [`Ops`] lists every operation as a pair
//! `x_forward` / `x_backward`; [`reference`] is its specification (naive, `f32` and `f64`), [`cpu`] the
//! fast implementation. It is the only crate of the workspace with `unsafe` code.
#![deny(unsafe_op_in_unsafe_fn)]

pub mod cpu;
pub mod dropout;
pub mod ops;
pub mod reference;
pub mod search;
pub mod testing;

pub use ops::Ops;

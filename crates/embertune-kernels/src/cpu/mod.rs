//! The fast implementation of [`Ops`](crate::Ops) on a CPU.

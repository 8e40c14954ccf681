//! Naive, exact implementations of [`Ops`](crate::Ops) in `f32` and `f64`: the specification of every operation.

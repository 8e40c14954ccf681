//! Tests of the operations, in one binary: the reference against differences and PyTorch, the devices against the reference.

mod cpu_against_reference;
mod reference;
mod scenarios;

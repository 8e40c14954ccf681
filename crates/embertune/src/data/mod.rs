//! Rows of training and evaluation data, and where they come from.

pub mod example;

pub use example::Example;

//! Embertune makes a text-embedding model better on its user's own data: it mines hard negatives, fine-tunes
//! contrastively, and evaluates before and after on held-out queries.
//!
//! Data flows one way: file -> [`data`] -> [`text`] -> [`model`] -> [`loss`] -> [`model`] backward -> [`optim`] -> weights;
//! mining and evaluation go [`data`] + [`model`] -> [`embed`] -> [`search`] -> [`mine`] | [`eval`].
//! Nothing in this crate prints, exits or knows the command line.
#![forbid(unsafe_code)]

pub mod audit;
pub mod comm;
pub mod data;
pub mod device;
pub mod embed;
pub mod error;
pub mod eval;
pub mod loss;
pub mod mine;
pub mod model;
pub mod optim;
pub mod progress;
pub mod random;
pub mod report;
pub mod search;
pub mod text;
pub mod train;

pub use error::{Error, Result};

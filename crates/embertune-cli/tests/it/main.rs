//! The command as a whole: what it prints, what it writes, its exit codes.

mod auditing;
mod command;
mod comparing;
mod data_commands;
mod errors;
mod interrupted;
mod interrupted_tune;
mod memory;
mod reporting;
mod workflow;

//! The command `embertune`.

fn main() {}

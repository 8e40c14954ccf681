//! What tests of this workspace share: gradient checks, comparisons, seeded inputs, a grid of sizes.

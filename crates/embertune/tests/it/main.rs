//! Tests of the library against golden values and real models, in one binary: one module per topic.

mod golden;

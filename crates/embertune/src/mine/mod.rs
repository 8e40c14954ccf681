//! mine.

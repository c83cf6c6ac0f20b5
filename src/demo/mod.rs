//! The quick start: sample organizations to try the product on.

pub mod sample_data;

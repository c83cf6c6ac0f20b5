//! The quick start: sample data that looks like a real `WorkflowOps`.

pub mod sample_data;

//! The quick start: sample organizations that look like a real `WorkflowOps`.

pub mod sample_data;

//! Logs, metrics and traces: how the service is watched.

pub mod logs;
pub mod metrics;
pub mod traces;

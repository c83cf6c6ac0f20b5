//! Logs, metrics and traces: how the service is watched.

mod database_errors;
pub mod logs;
pub mod metrics;
pub mod traces;

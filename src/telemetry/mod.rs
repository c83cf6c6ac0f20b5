//! Logs and metrics: how the service is watched.

pub mod logs;
pub mod metrics;

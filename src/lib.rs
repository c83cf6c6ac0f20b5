//! `drift-retention` keeps a multi-tenant SaaS inside its plans' retention windows.
//!
//! Data flows one way: a slot becomes a run and its delivery ([`scheduler`]), a worker claims the run
//! ([`worker`], [`runs`], [`jobs`]), resolves the organization's policy into cutoffs ([`retention`]), deletes per
//! dataset in batches ([`purge`]), verifies, and closes the run. `ARCHITECTURE.md` is the tour.

pub mod attach;
pub mod cli;
pub mod config;
pub mod demo;
pub mod drift;
pub mod faults;
pub mod gauges;
pub mod http;
pub mod humanize;
pub mod ids;
pub mod jobs;
pub mod postgres;
pub mod purge;
pub mod retention;
pub mod runs;
pub mod schedule;
pub mod scheduler;
pub mod telemetry;
pub mod text;
pub mod worker;

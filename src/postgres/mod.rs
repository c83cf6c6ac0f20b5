//! The database: where it runs.

pub mod local;

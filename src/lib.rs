//! Keeps every organization of a multi-tenant product inside its plan's data retention windows.

pub mod demo;
pub mod postgres;

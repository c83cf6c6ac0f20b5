//! The suite: the product as users run it, on a real Postgres. One binary, so that it links once; every test is
//! a process of its own under nextest.
#![allow(unreachable_pub, reason = "a test binary exports nothing")]
#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on should panic where it stands"
)]

mod architecture;
mod command_line;
mod command_line_runs;
mod command_line_usage;
mod demo;
mod enqueueing;
mod local_server;
mod purge_rules;
mod query_plans;
mod sample_data;
mod schema;
mod settings;
mod support;

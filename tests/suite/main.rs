//! The suite: the product as users run it, on a real Postgres. One binary, so that it links once; every test is
//! a process of its own under nextest. Each folder holds the tests of one subject, and its `mod.rs` says which.
#![allow(unreachable_pub, reason = "a test binary exports nothing")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on should panic where it stands"
)]
#![allow(clippy::float_cmp, reason = "counters hold whole numbers")]

mod api;
mod cli;
mod console;
mod docs;
mod ops;
mod purge;
mod runs;
mod support;
mod worker;

//! The suite: the product as users run it, on a real Postgres. One binary, so that it links once; every test is
//! a process of its own under nextest.
#![allow(unreachable_pub, reason = "a test binary exports nothing")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on should panic where it stands"
)]
#![allow(clippy::float_cmp, reason = "counters hold whole numbers")]

mod any_input;
mod any_jwks;
mod approval_rules;
mod architecture;
mod attach_acknowledged;
mod attach_changes;
mod attach_fingerprint;
mod attach_keys;
mod attach_migrations;
mod attach_refusals;
mod attach_refused_functions;
mod attach_refused_harm;
mod attach_refused_rights;
mod attach_refused_tables;
mod attach_template;
mod attach_types;
mod attach_values;
mod attach_warnings;
mod attach_workflowops;
mod attach_workflowops_at_work;
mod attach_workflowops_payloads;
mod attach_workflowops_roles;
mod authorization;
mod bad_data;
mod bad_input;
mod boundaries;
mod bulk_replay;
mod callers_in_the_way;
mod cancelling;
mod command_line;
mod command_line_runs;
mod command_line_usage;
mod concurrent_app;
mod config_command;
mod console_incidents;
mod console_keyboard;
mod console_pages;
mod console_purge_now;
mod console_replay;
mod console_rights;
mod console_screenshots;
mod console_sessions;
mod console_untrusted_text;
mod contention;
mod counts;
mod crashes;
mod deliveries;
mod demo;
mod documented_commands;
mod enqueueing;
#[cfg(feature = "chaos")]
mod fault_points;
mod following;
mod forged_records;
mod health_command;
mod hidden_rows;
mod history;
mod idle_runs;
mod integration_guide;
mod limits;
mod local_server;
mod lost_replies;
mod monitoring;
mod observability;
mod odd_times;
mod one_bad_table;
mod openapi_document;
mod operators_api;
mod own_server_outages;
mod own_server_replica;
mod pacing;
mod payload_rules;
mod plan_changes;
mod plan_rules;
mod promises;
mod publications;
mod purge_now;
mod purge_rules;
mod query_plans;
mod read_replica;
mod refused_records;
mod replaced_server;
mod resilience;
mod restored_payloads;
mod retention_map;
mod retries;
mod roles;
mod roles_refused;
mod runs_together;
mod sample_data;
mod scheduling;
mod scheduling_at_scale;
mod schema;
mod settings;
mod shared_gauges;
mod slices;
mod stopping;
mod support;
mod token_command;
mod tokens;
mod traces;
mod transaction_pooler;
mod urgency;
mod words_of_errors;

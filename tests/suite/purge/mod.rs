//! What a purge deletes and what it keeps: the rules of each dataset, plans, cutoffs and counts.

mod approval_rules;
mod bad_data;
mod boundaries;
mod check_rules;
mod concurrent_app;
mod counts;
mod hidden_rows;
mod hostile_settings;
mod one_bad_table;
mod payload_rules;
mod plan_changes;
mod plan_rules;
mod publications;
mod restored_payloads;

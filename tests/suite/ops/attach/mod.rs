//! The mapping to the main app's tables: what `attach` accepts, refuses and warns of, and how a mapped main app is purged.

mod acknowledged;
mod changes;
mod fingerprint;
mod keys;
mod migrations;
mod partitions_swapped_in;
mod refusals;
mod refused_functions;
mod refused_harm;
mod refused_rights;
mod refused_tables;
mod template;
mod types;
mod values;
mod warnings;
mod workflowops;
mod workflowops_at_work;
mod workflowops_payloads;
mod workflowops_roles;

//! Operating the product: migrations, roles, settings, database servers, poolers, replicas, scheduling and monitoring.

mod any_settings;
mod attach;
mod containers;
mod database_urls;
mod daylight_saving;
mod environment;
mod local_server;
mod migrating_anywhere;
mod monitoring;
mod observability;
mod own_server_outages;
mod own_server_replica;
mod own_server_tls;
mod query_plans;
mod read_replica;
mod replaced_server;
mod roles;
mod roles_refused;
mod scheduling;
mod scheduling_at_scale;
mod schema;
mod settings;
mod shared_gauges;
mod traces;
mod transaction_pooler;

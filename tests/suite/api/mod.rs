//! The HTTP API: requests and answers, tokens and keys, who may do what, and how much one caller may ask for.

mod any_jwks;
mod any_request;
mod any_token;
mod authorization;
mod bad_input;
mod callers_in_the_way;
mod connections;
mod expensive_reads;
mod following;
mod key_services;
mod key_sets;
mod large_payloads;
mod long_texts;
mod odd_times;
mod operators_api;
mod purge_now;
mod rate_limits;
mod resilience;
mod token_forms;
mod tokens;

//! The quick start: a Postgres of its own and sample organizations.

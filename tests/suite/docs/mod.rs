//! Documents and the layout of the sources: each says what the code does, and a test compares the two.

mod architecture;
mod documented_commands;
mod integration_guide;
mod openapi_document;
mod promises;
mod retention_map;

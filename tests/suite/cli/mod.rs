//! The command line: what each command takes, prints and returns, and the quick start.

mod command_line;
mod command_line_runs;
mod command_line_usage;
mod config_command;
mod demo;
mod health_command;
mod hostile_text;
mod output_refused;
mod sample_data;
mod sessions_command;
mod token_command;

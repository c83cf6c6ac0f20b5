//! Runs and their records: enqueue, deliver, retry, cancel and replay, and who may write a record.

mod bulk_replay;
mod cancelling;
mod deliveries;
mod enqueueing;
mod forged_records;
mod history;
mod organization_gone;
mod refused_records;
mod retries;
mod urgency;
mod words_of_errors;

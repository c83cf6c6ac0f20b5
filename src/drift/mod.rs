//! What the main app shows: organizations, environments, incidents, the drift dashboard. Reads only, and every
//! figure stays right when details are gone.

pub mod dashboard;
pub mod environments;
pub mod incidents;
pub mod organizations;

/// How many different words of one kind are counted by name: statuses and severities are a handful, unless somebody writes
/// others.
const MOST_WORDS: i64 = 50;

/// Shown in place of a purged payload.
pub const PURGED_NOTICE: &str = "Incident drift details were purged per retention policy.";
/// Shown where there is no payload and none was purged.
pub const MISSING_NOTICE: &str = "No drift details are recorded for this incident.";
/// Shown in place of a payload that is too large.
pub const TOO_LARGE_NOTICE: &str = "The drift details of this incident are too large to show.";

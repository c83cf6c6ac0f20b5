//! Reads the main app's data: organizations, environments, incidents and the drift dashboard. Every figure stays
//! correct after details are purged.

pub mod dashboard;
pub mod environments;
pub mod incidents;
pub mod organizations;

/// The most different statuses or severities that are counted by name. Normally there are only a few.
const MAX_NAMED_GROUPS: i64 = 50;

/// The text in place of a purged payload.
pub const PURGED_NOTICE: &str = "Incident drift details were purged per retention policy.";
/// The text in place of a payload that does not exist and was not purged.
pub const MISSING_NOTICE: &str = "No drift details are recorded for this incident.";
/// The text in place of a payload that is too large.
pub const TOO_LARGE_NOTICE: &str = "The drift details of this incident are too large to show.";

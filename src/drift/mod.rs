//! What the main app shows: organizations, environments, incidents. Reads only.

pub mod organizations;

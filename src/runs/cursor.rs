//! Where a page of a list ends, newest first: by time and id, so that entries of one moment are neither left out nor repeated.

use std::{fmt, str::FromStr};

use chrono::{DateTime, Datelike, Utc};
use serde::{Serialize, Serializer};
use uuid::Uuid;

/// Where a page ended: the next one begins after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cursor {
    created_at: DateTime<Utc>,
    id: Uuid,
}

impl Cursor {
    /// The end of a page whose last entry is of this time, with this id.
    #[must_use]
    pub fn after(created_at: DateTime<Utc>, id: Uuid) -> Self {
        Self { created_at, id }
    }

    /// The time and the id of the last entry.
    #[must_use]
    pub fn place(self) -> (DateTime<Utc>, Uuid) {
        (self.created_at, self.id)
    }
}

/// A cursor that no page of ours ended with.
#[derive(Debug, thiserror::Error)]
#[error("the cursor is none of ours: use next_cursor of the page before, unchanged")]
pub struct BadCursor;

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}_{}",
            self.created_at.timestamp_micros(),
            self.id.simple()
        )
    }
}

impl Serialize for Cursor {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl FromStr for Cursor {
    type Err = BadCursor;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (micros, id) = text.split_once('_').ok_or(BadCursor)?;
        let created_at = micros
            .parse()
            .ok()
            .and_then(DateTime::from_timestamp_micros)
            // What Postgres cannot store was in no page of ours.
            .filter(|at| (1..=9999).contains(&at.year()))
            .ok_or(BadCursor)?;
        Ok(Self {
            created_at,
            id: id.parse().map_err(|_| BadCursor)?,
        })
    }
}

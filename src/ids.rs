//! Identifiers that must not be swapped for one another.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, sqlx::Type, utoipa::ToSchema)]
        #[serde(transparent)]
        #[sqlx(transparent)]
        pub struct $name(pub Uuid);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl FromStr for $name {
            type Err = uuid::Error;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                Uuid::from_str(text.trim()).map(Self)
            }
        }
    };
}

id!(
    /// An organization: `main_app.organizations.id`.
    OrgId
);
id!(
    /// A run: `retention.purge_runs.id`.
    RunId
);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn an_id_reads_back_as_the_same_with_blanks_around(id in any::<u128>(), before in "\\s*", after in "\\s*") {
            let id = OrgId(Uuid::from_u128(id));
            prop_assert_eq!(format!("{before}{id}{after}").parse(), Ok(id));
        }

        #[test]
        fn any_text_is_an_id_or_an_error(text in any::<String>()) {
            let _ = text.parse::<RunId>();
        }
    }
}

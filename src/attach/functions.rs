//! Checks that the mapping's domain and two functions exist and have the right form.

use super::{
    catalog::{self, CheckKey},
    report::Object,
};
use crate::postgres::Database;

/// The types that a check's key may have.
const KEY_TYPES: [&str; 5] = ["uuid", "bigint", "integer", "text", "character varying"];

/// Checks the domain.
pub(super) fn check_key(found: Option<&CheckKey>) -> Object {
    let mut object = Object::named("check_key");
    match found {
        None => object.refuse(
            "there is no domain main_app.check_key",
            "CREATE DOMAIN main_app.check_key AS the type of the checks' key",
        ),
        Some(key) => {
            object.key_type = Some(key.type_name.clone());
            let type_name = key.type_name.split('(').next().unwrap_or_default();
            if !KEY_TYPES.contains(&type_name) {
                object.refuse(
                    format!("the key of checks is {}", key.type_name),
                    "it can be uuid, bigint, integer or text",
                );
            }
        }
    }
    object
}

/// Checks the function that locks the rows that decide a plan.
pub(super) async fn lock_plan(database: &Database) -> sqlx::Result<Object> {
    let mut object = function(database, "lock_plan", "uuid", "text").await?;
    let found = catalog::function(database, "lock_plan", "uuid").await?;
    if found.is_some_and(|found| found.volatility != "v") {
        object.refuse(
            "the function is not VOLATILE: it would read the plan from before the lock",
            "ALTER FUNCTION main_app.lock_plan(uuid) VOLATILE",
        );
    }
    Ok(object)
}

/// Checks the function that erases payloads.
pub(super) async fn erase_payloads(database: &Database) -> sqlx::Result<Object> {
    function(database, "erase_payloads", "uuid[]", "bigint").await
}

/// Checks the rights of the owner of schema `retention`. Enqueueing, and the trigger that notes rewritten payloads,
/// read the mapping with these rights.
pub(super) async fn check_schema_owner(
    database: &Database,
    objects: &mut [Object],
) -> sqlx::Result<()> {
    let owner = catalog::schema_owner(database).await?;
    for (view, is_allowed) in [
        ("organizations", owner.reads_organizations),
        ("incidents", owner.locks_incidents),
        ("incident_payloads", owner.reads_payloads),
    ] {
        if let (false, Some(object)) = (is_allowed, super::object(objects, view)) {
            object.refuse(
                format!(
                    "{}, the owner of schema retention, lacks a right on it",
                    owner.owner
                ),
                "apply deploy/postgres/roles.sql again",
            );
        }
    }
    Ok(())
}

async fn function(
    database: &Database,
    name: &str,
    argument: &str,
    returns: &str,
) -> sqlx::Result<Object> {
    let mut object = Object::named(name);
    let signature = format!("main_app.{name}({argument})");
    let Some(found) = catalog::function(database, name, argument).await? else {
        object.refuse(
            format!("there is no function {signature} that returns {returns}"),
            "write it: `drift-retention attach template` prints all of the mapping",
        );
        return Ok(object);
    };
    if found.returns != returns {
        object.refuse(
            format!("it returns {}, not {returns}", found.returns),
            format!("drop it, and create it RETURNS {returns}"),
        );
    }
    if !found.is_allowed {
        object.refuse(
            "this role may not call it",
            "apply deploy/postgres/roles.sql again",
        );
    }
    if found.is_public {
        object.warn(
            "everybody who can log in may call it",
            format!("REVOKE ALL ON FUNCTION {signature} FROM PUBLIC"),
        );
    }
    if found.is_definer && !found.has_search_path {
        object.warn(
            format!("it runs with the rights of {}, and with its caller's search path", found.owner),
            format!("ALTER FUNCTION {signature} SET search_path = pg_catalog, pg_temp, and name schemas in its body"),
        );
    }
    Ok(object)
}

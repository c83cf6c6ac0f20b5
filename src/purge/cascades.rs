//! Rows of other tables that go with purged rows by a foreign key, as the operator has acknowledged (`attach.cascades`):
//! counted for the record by what Postgres itself counts in the session, as flags are.

use serde_json::{Map, Value};

use crate::postgres::{Cascade, Transaction};

/// How many rows this session has deleted from each of the tables so far; `None`: Postgres does not count.
pub(super) struct Counted {
    tables: Vec<Cascade>,
    deleted: Vec<Option<i64>>,
}

/// Counts what hangs on the dataset whose first table is `dataset_table`; nothing is asked where nothing does.
pub(super) async fn count(
    tx: &mut Transaction<'_>,
    dataset_table: &str,
) -> sqlx::Result<Option<Counted>> {
    let tables: Vec<Cascade> = tx
        .mapping()?
        .cascades
        .iter()
        .filter(|cascade| cascade.dataset_table == dataset_table)
        .cloned()
        .collect();
    if tables.is_empty() {
        return Ok(None);
    }
    let oids: Vec<_> = tables.iter().map(|table| table.oid).collect();
    let deleted = sqlx::query_scalar!(
        "-- purge.count_cascades
         SELECT CASE WHEN current_setting('track_counts')::boolean
                     THEN (SELECT sum(pg_stat_get_xact_tuples_deleted(f.oid))::bigint
                           FROM (SELECT c.oid UNION SELECT p.relid FROM pg_partition_tree(c.oid) p) f) END
         FROM unnest($1::oid[]) WITH ORDINALITY AS c (oid, n) ORDER BY c.n",
        &oids
    )
    .fetch_all(tx)
    .await?;
    Ok(Some(Counted { tables, deleted }))
}

impl Counted {
    /// What has gone between `self` and `after`, by table: a number, or null where nobody can say. None: nothing went.
    pub(super) fn until(&self, after: &Self) -> Option<Value> {
        let mut gone = Map::new();
        let counts = self.deleted.iter().zip(&after.deleted);
        for (table, (before, after)) in self.tables.iter().zip(counts) {
            let rows = before.zip(*after).map(|(before, after)| after - before);
            if rows != Some(0) {
                gone.insert(table.name.clone(), rows.map_or(Value::Null, Value::from));
            }
        }
        (!gone.is_empty()).then_some(Value::Object(gone))
    }
}

#[cfg(test)]
mod tests {
    use sqlx::postgres::types::Oid;

    use super::*;

    #[test]
    fn only_what_went_in_between_is_told_and_what_is_not_counted_is_unknown() {
        let table = |name: &str| Cascade {
            dataset_table: "approvals",
            name: name.into(),
            oid: Oid(1),
        };
        let counted = |deleted| Counted {
            tables: vec![table("public.a"), table("public.b")],
            deleted,
        };
        let before = counted(vec![Some(3), Some(1)]);
        assert_eq!(
            before.until(&counted(vec![Some(5), Some(1)])),
            Some(serde_json::json!({"public.a": 2}))
        );
        assert_eq!(before.until(&counted(vec![Some(3), Some(1)])), None);
        assert_eq!(
            before.until(&counted(vec![Some(3), None])),
            Some(serde_json::json!({"public.b": null}))
        );
    }
}

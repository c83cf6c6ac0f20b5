//! The sample data shows every rule at work: for each plan and kind of data, rows on both sides of the window.

use drift_retention::demo::sample_data;
use sqlx::Row;

use crate::support::TestDatabase;

/// One row per plan: expired and retained of each kind, null where the plan has no rule.
const BOTH_SIDES: &str = "
    WITH windows (tier, spellings, checks, payloads, approvals) AS (VALUES
        ('free', ARRAY['free'], 7, NULL::int, NULL::int), ('pro', ARRAY['pro'], 30, 180, 180),
        ('agency', ARRAY['agency', 'agency+', 'agency_plus'], 90, 365, 365),
        ('enterprise', ARRAY['enterprise'], 180, 2555, 2555)),
    customers AS (
        SELECT o.id, w.* FROM organizations o JOIN windows w ON lower(trim(o.plan)) = ANY (spellings)),
    ages AS (
        SELECT tier, 'drift_checks' AS kind, checks AS days, checked_at AS at
        FROM drift_checks d JOIN customers c ON c.id = d.org_id
        UNION ALL
        SELECT tier, 'incident_payloads', payloads, closed_at
        FROM incidents i JOIN customers c ON c.id = i.org_id WHERE status = 'closed'
        UNION ALL
        SELECT tier, 'approvals', approvals, a.created_at
        FROM approvals a JOIN customers c ON c.id = a.org_id JOIN incidents i ON i.id = a.incident_id
        WHERE a.status <> 'pending' AND i.status = 'closed')
    SELECT tier, kind, days IS NOT NULL,
           count(*) FILTER (WHERE at < now() - make_interval(days => days)),
           count(*) FILTER (WHERE at >= now() - make_interval(days => days))
    FROM ages GROUP BY tier, kind, days";

#[tokio::test]
async fn every_plan_has_expired_and_retained_rows_of_every_kind() {
    let db = TestDatabase::new().await;
    let pool = &db.pool;

    assert!(!sample_data::is_loaded(pool).await.unwrap());
    sample_data::load(pool).await.unwrap();
    assert!(sample_data::is_loaded(pool).await.unwrap());
    assert!(
        sample_data::load(pool).await.is_err(),
        "a second load is refused"
    );

    let rows = sqlx::raw_sql(BOTH_SIDES).fetch_all(pool).await.unwrap();
    assert_eq!(rows.len(), 4 * 3);
    for row in rows {
        let (tier, kind): (&str, &str) = (row.get(0), row.get(1));
        let (has_rule, expired, retained): (bool, i64, i64) = (row.get(2), row.get(3), row.get(4));
        assert!(
            !has_rule || (expired >= 20 && retained >= 20),
            "{tier} {kind}: {expired}, {retained}"
        );
    }
    let unresolved = "SELECT count(*) FROM organizations WHERE plan = 'legacy-2019'";
    let unresolved = sqlx::raw_sql(unresolved).fetch_one(pool).await.unwrap();
    assert_eq!(unresolved.get::<i64, _>(0), 1);
}

//! Texts that somebody wrote to harm who reads them, in every row of a main app and of our records.

use uuid::Uuid;

use super::{TestDatabase, scene::Scene};

/// Clears the screen, renames the window, rings, overwrites its line, looks like a second line, and turns what follows around;
/// and letters that become longer in JSON and in HTML.
pub const HOSTILE: &str = "\u{1b}]0;owned\u{7}\u{1b}[2J\u{9b}31m\u{9d}0;x\u{9c}\u{85}\u{7f}\rok\nerror: none\t\u{202e}\u{2066}\u{200f}\u{61c}\"<&'é🦀";
/// A name that Postgres takes for a trigger.
pub const HOSTILE_NAME: &str = "\u{1b}]0;x\u{7}\u{9b}31m\u{7f}\r\n\u{202e}trigger";
/// What an answer takes at most.
pub const MEGABYTE: usize = 1_000_000;

/// One of everything, each of its texts three megabytes long, and many of what stands in lists.
pub struct Hostile {
    pub db: TestDatabase,
    pub scene: Scene,
    /// Its plan is hostile too.
    pub other: Uuid,
}

impl Hostile {
    pub async fn new() -> Self {
        let db = TestDatabase::new().await;
        let scene = Scene::of(&db, HOSTILE).await;
        let other = db
            .value("SELECT id FROM organizations WHERE plan <> 'pro'")
            .await;
        let times = 3_000_000 / HOSTILE.len() + 1;
        let long = |column: &str| format!("{column} = repeat({column}, {times})");
        let all = |columns: &[&str]| {
            let all: Vec<String> = columns.iter().map(|column| long(column)).collect();
            all.join(", ")
        };
        db.execute(&format!(
            "DROP INDEX environments_org_name_idx; -- another main app has none, and takes such names
             BEGIN; SET LOCAL session_replication_role = replica;
             UPDATE organizations SET {}, plan = CASE plan WHEN 'pro' THEN plan ELSE repeat(plan, {times}) END;
             UPDATE environments SET {};
             UPDATE incidents SET severity = title;
             UPDATE incidents SET {};
             UPDATE approvals SET {};
             UPDATE workflow_drift_flags SET {};
             UPDATE retention.purge_runs SET {};
             UPDATE retention.purge_run_steps SET throttle_reason = (SELECT requested_by FROM retention.purge_runs LIMIT 1),
                 throttled_ms = 1000;
             UPDATE retention.operator_actions SET {};
             COMMIT",
            long("name"),
            long("name"),
            all(&["title", "severity", "owner"]),
            all(&["action", "requested_by", "decided_by", "notes"]),
            long("workflow_name"),
            all(&["requested_by", "reason", "error"]),
            all(&["actor", "reason"]),
        ))
        .await;
        many(&db, &scene).await;
        db.execute(&format!(
            "CREATE FUNCTION pass() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NEW; END $$;
             CREATE TRIGGER \"{HOSTILE_NAME}\" BEFORE UPDATE ON incidents FOR EACH ROW EXECUTE FUNCTION pass()"
        ))
        .await;
        Self { db, scene, other }
    }
}

/// As many as a list shows at once, and more, each text longer than it is shown.
async fn many(db: &TestDatabase, scene: &Scene) {
    let (org, env, incident) = (scene.org, scene.envs[0], scene.incidents[0]);
    let words = format!("repeat('{}', 60)", HOSTILE.replace('\'', "''"));
    db.execute(&format!(
        "BEGIN; SET LOCAL session_replication_role = replica;
         INSERT INTO organizations (name, plan) SELECT {words}, {words} FROM generate_series(1, 120);
         INSERT INTO environments (org_id, name) SELECT '{org}', {words} || n FROM generate_series(1, 250) n;
         INSERT INTO incidents (org_id, env_id, title, severity, status, owner)
         SELECT '{org}', '{env}', {words}, n || {words}, n || {words}, {words} FROM generate_series(1, 250) n;
         INSERT INTO approvals (org_id, incident_id, action, status, requested_by, decided_by, notes, decided_at)
         SELECT '{org}', '{incident}', {words}, 'approved', {words}, {words}, {words}, now() FROM generate_series(1, 1200);
         INSERT INTO workflow_drift_flags (check_id, workflow_id, workflow_name, flag)
         SELECT c.id, n || left({words}, 300), {words}, 'modified'
         FROM generate_series(1, 1200) n, (SELECT id FROM drift_checks ORDER BY checked_at DESC LIMIT 1) c;
         INSERT INTO retention.purge_runs (org_id, trigger, requested_by, reason, status, error_kind, error, created_at, finished_at)
         SELECT o.id, 'purge_now', {words}, {words}, 'failed', n || left({words}, 300), {words}, now() - interval '2 hours', now()
         FROM generate_series(1, 250) n, (SELECT id FROM organizations WHERE plan <> 'pro' LIMIT 1) o;
         INSERT INTO retention.operator_actions (actor, action, run_id, org_id, reason)
         SELECT {words}, 'replay', '{}', '{org}', {words} FROM generate_series(1, 120);
         COMMIT",
        scene.runs.failed.unwrap()
    ))
    .await;
}

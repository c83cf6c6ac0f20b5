//! `migrate` beside a main app of its own: it changes nothing that is not ours, or it is refused before it changes anything.

use crate::support::{
    TestDatabase, checksum, product, roles,
    text::{shown, stderr, stdout},
};

const OURS: [&str; 2] = ["retention", "apalis"];

/// A main app with names like ours and other columns, and one of everything that a schema can have.
async fn own_app() -> TestDatabase {
    let db = TestDatabase::empty().await;
    db.execute(
        "CREATE TYPE mood AS ENUM ('calm', 'drifting');
         CREATE DOMAIN check_key AS text CHECK (VALUE <> '');
         CREATE TABLE organizations (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, title text NOT NULL, mood mood);
         CREATE TABLE environments (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), tenant_id bigint REFERENCES organizations, n8n_name text);
         CREATE TABLE incidents (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), drift_summary jsonb, closed_at date, status mood);
         CREATE TABLE incident_payloads (id serial PRIMARY KEY, incident_id uuid UNIQUE REFERENCES incidents ON DELETE CASCADE,
                                         payload_json jsonb NOT NULL, extra text NOT NULL DEFAULT 'x', created_at timestamptz DEFAULT now());
         COMMENT ON TABLE incidents IS 'ours since 2019';
         CREATE INDEX incidents_payload_due_idx ON incidents (closed_at);
         CREATE VIEW approvals AS SELECT id, 'yes'::text AS status FROM incidents;
         CREATE MATERIALIZED VIEW drift_checks AS SELECT id FROM environments;
         CREATE FUNCTION note_rewritten_payload() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NEW; END $$;
         CREATE TRIGGER note_rewritten_payload BEFORE UPDATE ON incidents FOR EACH ROW EXECUTE FUNCTION note_rewritten_payload();
         CREATE RULE quiet AS ON DELETE TO organizations DO INSTEAD NOTHING;
         ALTER TABLE environments ENABLE ROW LEVEL SECURITY;
         CREATE POLICY mine ON environments USING (tenant_id = 1);
         GRANT SELECT ON incidents TO PUBLIC;
         ALTER TABLE incidents SET (autovacuum_vacuum_scale_factor = 0.5);
         CREATE TABLE _sqlx_migrations (version bigint PRIMARY KEY, checksum bytea);
         INSERT INTO _sqlx_migrations VALUES (1, '\\x00'), (99, '\\x01');
         INSERT INTO organizations (title, mood) VALUES ('Brightkiln', 'calm'), ('Ostwerk', 'drifting');
         INSERT INTO environments (tenant_id, n8n_name) SELECT id, 'production' FROM organizations;
         INSERT INTO incidents (drift_summary, closed_at, status) VALUES ('{\"a\": 1}', '2020-01-01', 'calm'), (NULL, NULL, NULL);
         INSERT INTO incident_payloads (incident_id, payload_json) SELECT id, '[1]' FROM incidents;
         REFRESH MATERIALIZED VIEW drift_checks;",
    )
    .await;
    db
}

async fn migrate(url: &str, args: &[&str]) -> String {
    let output = product::run(url, &[&["migrate"], args].concat()).await;
    assert!(output.status.success(), "{args:?}: {}", stderr(&output));
    stdout(&output)
}

/// Fails unless the command is refused with `says`, and the whole database is as it was.
async fn refused(db: &TestDatabase, url: &str, args: &[&str], says: &str) {
    let before = checksum::of(db).await;
    let output = product::run(url, args).await;
    assert_eq!(
        output.status.code(),
        Some(1),
        "{args:?}: {}",
        shown(&output)
    );
    assert!(
        stderr(&output).contains(says),
        "{args:?}: {}",
        stderr(&output)
    );
    checksum::assert_same(&before, &checksum::of(db).await, &format!("{args:?}"));
}

#[tokio::test]
async fn up_and_down_leave_a_main_app_of_its_own_as_it_was() {
    let db = own_app().await;
    let before = checksum::outside(&db, &OURS).await;
    assert!(before.len() > 50, "{before:#?}");
    for args in [
        ["up"].as_slice(),
        &["up"],
        &["down"],
        &["up"],
        &["down", "--to", "0"],
        &["up"],
    ] {
        migrate(&db.url, args).await;
        let after = checksum::outside(&db, &OURS).await;
        checksum::assert_same(&before, &after, &format!("{args:?}"));
    }
}

#[tokio::test]
async fn down_keeps_the_mapping_that_an_operator_wrote() {
    let db = own_app().await;
    migrate(&db.url, &["up"]).await;
    db.execute(
        "CREATE SCHEMA main_app; CREATE VIEW main_app.incidents AS SELECT * FROM incidents;
         CREATE DOMAIN main_app.check_key AS uuid;
         CREATE FUNCTION main_app.lock_plan(org_id uuid) RETURNS text LANGUAGE sql AS $$ SELECT 'pro' $$",
    )
    .await;
    let before = checksum::outside(&db, &OURS).await;
    migrate(&db.url, &["down", "--to", "0"]).await;
    checksum::assert_same(&before, &checksum::outside(&db, &OURS).await, "down");
    refused(
        &db,
        &db.url,
        &["migrate", "up", "--main-app"],
        "schema main_app is there",
    )
    .await;
}

#[tokio::test]
async fn down_takes_back_no_reference_that_somebody_has_made_their_own() {
    let db = TestDatabase::new().await;
    let down = ["migrate", "down", "--to", "0"];
    db.execute("ALTER TABLE incident_payloads ADD COLUMN secret_notes text")
        .await;
    refused(&db, &db.url, &down, "a column of your own, secret_notes").await;
    // The trial is over: tables and a mapping of the operator's own under the same names.
    db.execute(
        "DROP SCHEMA main_app CASCADE; DROP TABLE incident_payloads, approvals, incidents CASCADE;
         CREATE TABLE incidents (id uuid PRIMARY KEY);
         CREATE TABLE incident_payloads (incident_id uuid PRIMARY KEY, secret_notes text)",
    )
    .await;
    refused(
        &db,
        &db.url,
        &down,
        "no longer belongs to the reference main app",
    )
    .await;
    db.execute(
        "DROP TABLE incident_payloads, incidents; CREATE TABLE drift_incidents (id uuid);
         CREATE SCHEMA main_app; CREATE VIEW main_app.incidents AS SELECT id FROM drift_incidents",
    )
    .await;
    refused(&db, &db.url, &down, "main_app.incidents maps a table").await;
}

#[tokio::test]
async fn reference_main_app_is_refused_beside_another_one_before_any_change() {
    let says = "is there and is not ours: --main-app creates a reference main app beside none";
    let db = own_app().await;
    refused(&db, &db.url, &["migrate", "up", "--main-app"], says).await;
    for name in [
        "organizations",
        "environments",
        "drift_checks",
        "workflow_drift_flags",
        "incidents",
        "incident_payloads",
        "approvals",
    ] {
        let db = TestDatabase::empty().await;
        db.execute(&format!("CREATE TABLE {name} (id int)")).await;
        let says = format!("public.{name} {says}");
        refused(&db, &db.url, &["migrate", "up", "--main-app"], &says).await;
        // Nor once our own schema is there.
        migrate(&db.url, &["up"]).await;
        refused(&db, &db.url, &["migrate", "up", "--main-app"], &says).await;
    }
}

#[tokio::test]
async fn extensions_in_another_schema_and_the_apps_own_search_path_are_no_obstacle() {
    let db = own_app().await;
    db.execute(
        "CREATE SCHEMA extensions; CREATE EXTENSION hstore SCHEMA extensions; CREATE EXTENSION pgcrypto SCHEMA extensions;
         DO $$ BEGIN
             EXECUTE format('ALTER DATABASE %I SET search_path = app, extensions', current_database());
         END $$;
         CREATE SCHEMA app; CREATE TABLE app.environments (id int); CREATE TABLE app.jobs (id int);
         -- The queue's early migrations create one of this name.
         CREATE FUNCTION extensions.generate_ulid() RETURNS text LANGUAGE sql AS 'SELECT ''mine''::text'",
    )
    .await;
    let url = roles::user_in(&db, "").await;
    let user = roles::pool_of(&url);
    let name: String = crate::support::value(&user, "SELECT current_user::text").await;
    db.execute(&format!(
        "ALTER ROLE {name} SUPERUSER; ALTER ROLE {name} SET search_path = \"$user\", 'odd; schema', pg_temp"
    ))
    .await;
    let before = checksum::outside(&db, &OURS).await;
    for (url, args) in [
        (&db.url, ["up"].as_slice()),
        (&url, &["down", "--to", "0"]),
        (&url, &["up"]),
        (&db.url, &["down", "--to", "0"]),
    ] {
        migrate(url, args).await;
        checksum::assert_same(
            &before,
            &checksum::outside(&db, &OURS).await,
            &format!("{args:?}"),
        );
    }
}

/// A role that owns the database and is no superuser; the URL with which it logs in.
async fn plain_owner(db: &TestDatabase) -> String {
    let url = roles::user_in(db, "").await;
    let user = roles::pool_of(&url);
    let name: String = crate::support::value(&user, "SELECT current_user::text").await;
    db.execute(&format!(
        "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I OWNER TO {name}', current_database()); END $$"
    ))
    .await;
    url
}

#[tokio::test]
async fn owner_who_is_no_superuser_migrates_maps_and_purges() {
    let db = own_app().await;
    let url = plain_owner(&db).await;
    let before = checksum::outside(&db, &OURS).await;
    migrate(&url, &["up"]).await;
    migrate(&url, &["down", "--to", "0"]).await;
    migrate(&url, &["up"]).await;
    checksum::assert_same(&before, &checksum::outside(&db, &OURS).await, "migrate");

    let db = TestDatabase::empty().await;
    let url = plain_owner(&db).await;
    migrate(&url, &["up", "--main-app"]).await;
    let org = crate::support::app::App::on(&db.pool)
        .org_with_all_kinds_expired(5)
        .await;
    crate::support::attach::accepted(&url, &[]).await;
    product::purge(&url, org).await;
}

#[tokio::test]
async fn role_that_may_not_create_schemas_is_refused_with_its_grant() {
    let db = own_app().await;
    let url = roles::user_in(&db, "").await;
    refused(
        &db,
        &url,
        &["migrate", "up"],
        "may not create schemas: GRANT CREATE ON DATABASE",
    )
    .await;
}

#[tokio::test]
async fn app_with_names_that_we_need_is_refused_before_any_change() {
    for (theirs, says) in [
        (
            "CREATE SCHEMA retention; CREATE TABLE retention.runs (id int)",
            "schema retention is there and is not ours",
        ),
        (
            "CREATE SCHEMA retention; CREATE FUNCTION retention.f() RETURNS int LANGUAGE sql AS 'SELECT 1'",
            "schema retention is there and is not ours",
        ),
        (
            "CREATE SCHEMA apalis; CREATE TABLE apalis.jobs (id int)",
            "schema apalis exists and does not belong to the queue",
        ),
        (
            "CREATE FUNCTION generate_ulid() RETURNS text LANGUAGE sql AS 'SELECT now()::text'",
            "function public.generate_ulid() is there",
        ),
    ] {
        let db = own_app().await;
        db.execute(theirs).await;
        for up in [
            ["migrate", "up"].as_slice(),
            &["migrate", "up", "--main-app"],
        ] {
            refused(&db, &db.url, up, says).await;
        }
    }
}

#[tokio::test]
async fn up_without_a_mapping_succeeds_and_tells_the_next_step_and_every_command_asks_for_it() {
    let db = own_app().await;
    let told = migrate(&db.url, &["up"]).await;
    assert!(told.contains("drift-retention attach template"), "{told}");
    assert!(told.contains("drift-retention attach check"), "{told}");
    for args in [
        ["attach", "check"].as_slice(),
        &["serve", "--roles", "worker"],
        &["serve", "--roles", "api"],
        &["serve", "--roles", "scheduler"],
        &["purge", "--all"],
        &["purge", "--all", "--work"],
        &["preview", "--all"],
    ] {
        refused(
            &db,
            &db.url,
            args,
            "starting from `drift-retention attach template`",
        )
        .await;
    }
    // What reads our own records needs none.
    let output = product::run(&db.url, &["runs", "list"]).await;
    assert!(output.status.success(), "{}", stderr(&output));
}

#[tokio::test]
async fn down_is_refused_while_a_trigger_of_the_operators_calls_our_function() {
    let db = own_app().await;
    migrate(&db.url, &["up"]).await;
    db.execute(
        "CREATE TRIGGER \"Note it\" AFTER INSERT OR UPDATE ON incident_payloads
             FOR EACH ROW EXECUTE FUNCTION retention.note_rewritten_payload('incident_id')",
    )
    .await;
    let drop = "DROP TRIGGER \"Note it\" ON incident_payloads";
    let says = format!("a trigger of the main app calls retention.note_rewritten_payload: {drop}");
    refused(
        &db,
        &db.url,
        &["migrate", "down", "--to", "0"],
        &says.replace(" incident", " public.incident"),
    )
    .await;
    db.execute(drop).await;
    migrate(&db.url, &["down", "--to", "0"]).await;
}

/// Without a trigger of the operator's the reference main app would go first, and only then the refusal would come.
#[tokio::test]
async fn down_is_refused_before_any_change_where_the_reference_main_app_has_such_a_trigger_too() {
    let db = TestDatabase::new().await;
    db.execute(
        "CREATE TRIGGER mine AFTER INSERT OR UPDATE ON incidents
             FOR EACH ROW EXECUTE FUNCTION retention.note_rewritten_payload('id')",
    )
    .await;
    let says = "calls retention.note_rewritten_payload: DROP TRIGGER mine ON public.incidents; nothing was changed";
    refused(&db, &db.url, &["migrate", "down", "--to", "0"], says).await;
    db.execute("DROP TRIGGER mine ON incidents").await;
    migrate(&db.url, &["down", "--to", "0"]).await;
}

#[tokio::test]
async fn database_of_another_build_is_refused_with_a_sentence() {
    for (change, says) in [
        ("UPDATE retention.migrations SET checksum = '\\x00' WHERE version = 4", "migration 4"),
        ("INSERT INTO retention.migrations (version, description, success, checksum, execution_time)
          VALUES (7, 'drift indexes', true, '\\x00', 0)", "migration 7"),
        ("UPDATE retention.main_app_migrations SET checksum = '\\x00' WHERE version = 1003", "migration 1003"),
    ] {
        let db = TestDatabase::new().await;
        db.execute(change).await;
        for args in [
            ["migrate", "up"].as_slice(),
            &["migrate", "up", "--main-app"],
            &["migrate", "down", "--to", "0"],
            &["serve", "--roles", "worker"],
            &["purge", "--all", "--work"],
            &["attach", "check"],
        ] {
            refused(&db, &db.url, args, says).await;
        }
    }
}

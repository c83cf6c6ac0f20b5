// The live proof: a worker really purges and really fails, a Prometheus scrapes it, every panel has data from there or
// from Postgres, and an alert fires and resolves at a webhook. With --preview it lives longer and draws
// docs/dashboards-*.png of what it saw.
//
// Needs DATABASE_URL (an empty database), a built binary, and prometheus and alertmanager on the PATH.
import { writeFileSync } from "node:fs";
import { preview } from "./preview.mjs";
import { dashboards, empty, evaluated } from "./panels.mjs";
import { Stage, product, psql, sleep, sql, until } from "./stage.mjs";

const drawing = process.argv.includes("--preview");
const stage = new Stage("target/check-dashboards");
const now = () => Date.now() / 1000;
const began = now();
const say = (text) => console.log(`${(now() - began).toFixed(0).padStart(4)} s  ${text}`);

/** The quick start's organizations; one of them has a plan that nobody knows. */
function load() {
    if (product("migrate", "up", "--main-app").status !== 0) throw new Error("migrate up failed");
    const scripts = ["organizations", "drift_checks", "incidents"].map((name) => `src/demo/sample_data/${name}.sql`);
    sql("-1", ...scripts.flatMap((script) => ["-f", script]));
    sql("-c", "ANALYZE");
    sql("-f", "deploy/postgres/roles.sql");
}

/** Batches take their time, and one of a hundred fails: charts of a purge that is over at once show nothing. */
function makeTrouble() {
    sql(
        "-c",
        `
    CREATE SEQUENCE public.batches;
    CREATE FUNCTION public.trouble() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        PERFORM pg_sleep(0.02 + random() * 0.06);
        IF nextval('public.batches') % 100 = 0 THEN RAISE EXCEPTION 'the tablespace is read-only today'; END IF;
        RETURN NULL;
    END $$;
    CREATE TRIGGER trouble AFTER DELETE ON drift_checks FOR EACH STATEMENT EXECUTE FUNCTION public.trouble();`,
    );
}

/** A week goes by: every time that a rule looks at moves back. */
const age = () =>
    sql(
        "-c",
        `
    UPDATE drift_checks SET checked_at = checked_at - interval '7 days';
    UPDATE incidents SET closed_at = closed_at - interval '7 days';
    UPDATE approvals SET created_at = created_at - interval '7 days';`,
    );

/** The main app at work on organizations that are being purged: it waits for our locks, which slows the purge down. */
function wakeTheMainApp() {
    const script = `${stage.directory}/main-app.sql`;
    writeFileSync(
        script,
        `
    UPDATE organizations SET plan = plan WHERE id = (
        SELECT org_id FROM retention.purge_runs WHERE status = 'running' ORDER BY random() LIMIT 1)
    \\watch 0.02`,
    );
    stage.start("main-app", psql, ["-XqAt", "-f", script, process.env.DATABASE_URL]);
}

/** A worker that is silent for longer than its lease loses its runs, and says so when it comes back. */
async function freezeUntilItsRunsAreTaken(name) {
    const child = stage.running.get(name);
    const held = `SELECT count(*) FROM retention.purge_runs WHERE status = 'running' AND worker LIKE '%:${child.pid}:%'`;
    await until("the worker has a run", () => sql("-c", held) !== "0");
    child.kill("SIGSTOP");
    await until("its runs are taken over", () => sql("-c", held) === "0").finally(() => child.kill("SIGCONT"));
}

function purgeAll() {
    const { stdout } = product("purge", "--all", "--reason", "a night's purge", "--json");
    say(`${JSON.parse(stdout).runs.length} runs were asked for`);
}

/** What the record tells of people: one of the runs that wait is called off. */
function cancelOne() {
    const waiting = `
    SELECT r.id FROM retention.purge_runs r JOIN organizations o ON o.id = r.org_id
    WHERE r.status = 'queued' AND o.plan = 'pro' ORDER BY r.id LIMIT 1`;
    const { status } = product("runs", "cancel", sql("-c", waiting), "--reason", "not before their audit");
    if (status !== 0) throw new Error("the cancellation was refused");
}

const nothingLive = async () =>
    sql("-c", "SELECT count(*) FROM retention.purge_runs WHERE status IN ('queued', 'running', 'retrying')") === "0";

/** What has no data, or nothing but zeros, of all expressions of all panels. */
async function lookAtEveryPanel() {
    const seen = { expressions: 0, series: 0, rows: 0, empty: [] };
    for (const { title, panels } of dashboards) {
        for (const panel of panels.filter(({ type }) => type !== "row")) {
            const { targets } = await evaluated(stage, panel, { start: began, end: now() });
            for (const target of targets) {
                seen.expressions += 1;
                seen.series += target.series.length;
                seen.rows += target.rows?.length ?? 0;
                seen.empty.push(...empty(target).map((what) => `${title}, ${panel.title}: ${what}: ${target.expr}`));
            }
        }
    }
    return seen;
}

/** The box of the dashboard on Postgres: an id or a part of a name narrows every table, nobody's name empties all. */
async function lookThroughTheBox() {
    const { panels } = dashboards.find(({ name }) => name === "organizations");
    const look = async (organization) => {
        const shown = panels.filter(({ type }) => type !== "row");
        const all = await Promise.all(
            shown.map((panel) => evaluated(stage, panel, { start: began, end: now(), organization })),
        );
        return all.flatMap(({ panel, targets }) => targets.map((target) => ({ panel, target })));
    };
    const tables = async (organization) => (await look(organization)).filter(({ target }) => target.rows);
    const all = (await tables("")).map(({ target }) => target.rows);
    const organizations = all.find(([{ id }]) => id);
    const one = organizations.find(({ organization }) =>
        all.every((rows) => rows.some((row) => row.organization === organization)),
    );
    if (!one) throw new Error("no organization is in every table");
    const part = one.organization.slice(1).toUpperCase();
    for (const typed of [one.id, part]) {
        for (const { panel, target } of await tables(typed)) {
            const its = target.rows.filter(({ organization }) => organization.toUpperCase().includes(part));
            if (!its.length || its.length < target.rows.length)
                throw new Error(`${panel.title}: ${its.length} of ${target.rows.length} rows are of ${typed}`);
        }
    }
    for (const { panel, target } of await look("nobody's"))
        if (target.rows?.length || !empty(target).length)
            throw new Error(`${panel.title} shows something of nobody's`);
}

async function live() {
    load();
    makeTrouble();
    const started = now();
    // Before there is a worker: the gauges are read every half minute, and the first reading is to see them wait.
    purgeAll();
    cancelOne();
    await stage.startAll();
    say("two workers are scraped every second");
    wakeTheMainApp();
    const throttled = "sum(drift_retention_throttled_seconds_total)";
    await until("the main app is noticed", async () => (await stage.query(throttled)) > 0);
    await stage.stop("main-app");
    say("the purge has slowed down for the main app");
    await freezeUntilItsRunsAreTaken("second");
    say("a frozen worker has lost its runs");
    await until("the night's purge is over", nothingLive, 90);
    say("the purge is over");
    for (let night = 0; drawing && night < 4; night += 1) {
        await sleep(12_000);
        age();
        purgeAll();
        await until("another night's purge is over", nothingLive, 90);
    }

    const unresolved = "DriftRetentionPlanUnresolved";
    const told = (status) => () =>
        stage.told.find((alert) => alert.status === status && alert.labels.alertname === unresolved);
    const firing = await until(`${unresolved} fires`, told("firing"));
    say(`fired at the webhook: ${firing.annotations.summary} (${firing.annotations.runbook_url})`);
    const customer = sql("-c", "SELECT id FROM organizations WHERE plan = 'legacy-2019'");
    product("purge", "--org", customer, "--reason", "a customer asks");
    await until("that has failed as well", nothingLive);
    const failed = sql("-c", "SELECT count(*) FROM retention.purge_runs WHERE status = 'failed'");
    const counted = 'sum(drift_retention_purge_runs_total{outcome="failed"})';
    await until(
        "failed runs are counted as recorded",
        async () => failed > 0 && (await stage.query(counted)) === Number(failed),
        5,
    );

    // As the runbook says.
    sql("-c", "UPDATE organizations SET plan = 'pro' WHERE plan = 'legacy-2019'");
    const replay = product(
        "runs",
        "replay",
        "--failed",
        "--error-kind",
        "policy_unresolved",
        "--reason",
        "plan corrected",
    );
    if (replay.status !== 0) throw new Error("the replay was refused");
    await until(`${unresolved} resolves`, told("resolved"));
    say("resolved at the webhook, once the plan was corrected");

    // The gauges may have to be read once more first.
    let seen = await lookAtEveryPanel();
    for (const deadline = now() + 45; seen.empty.length && now() < deadline; seen = await lookAtEveryPanel())
        await sleep(2_000);
    if (seen.empty.length) throw new Error(`panels that show nothing:\n${seen.empty.join("\n")}`);
    say(
        `${seen.expressions} expressions of ${dashboards.length} dashboards show something: ` +
            `${seen.series} series and ${seen.rows} rows`,
    );
    await lookThroughTheBox();
    say("an organization's name or id narrows its dashboard");
    if (!drawing) return;
    await until(
        "nothing is overdue any more",
        async () => (await stage.query("max(drift_retention_overdue_seconds)")) === 0,
    );
    // Charts end with the last whole second: it is to have seen that, too.
    await sleep(3_000);
    await preview(stage, { start: started, end: now() }, say);
}

for (const signal of ["SIGINT", "SIGTERM"]) process.once(signal, () => stage.end().then(() => process.exit(1)));
try {
    await live();
} catch (error) {
    console.error(`${error.message}\n(logs are in ${stage.directory})`);
    process.exitCode = 1;
} finally {
    await stage.end();
}

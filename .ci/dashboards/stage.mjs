// What the live proof stands on: two workers, a Prometheus that scrapes them every second, an Alertmanager and a
// webhook that writes down what it is told. All of it on loopback, and all of it ended by end().
import { spawn, execFileSync } from "node:child_process";
import { mkdirSync, openSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:http";
import { createServer as listen } from "node:net";
import { setTimeout as sleep } from "node:timers/promises";

export { sleep };
export const alerts = "dashboards/alerts";
const binary = `${process.env.CARGO_TARGET_DIR ?? "target"}/debug/drift-retention`;
export const psql = `${execFileSync(".ci/find-postgres.sh").toString().trim()}/psql`;

export async function until(what, holds, seconds = 60) {
    const deadline = Date.now() + seconds * 1000;
    for (;;) {
        const found = await Promise.resolve()
            .then(holds)
            .catch(() => false);
        if (found) return found;
        if (Date.now() > deadline) throw new Error(`waited ${seconds} s in vain until ${what}`);
        await sleep(200);
    }
}

const freePort = () =>
    new Promise((resolve) => {
        const probe = listen().listen(0, "127.0.0.1", () => {
            const { port } = probe.address();
            probe.close(() => resolve(port));
        });
    });

/** SQL as the main app, or as whoever makes trouble. */
export function sql(...args) {
    return execFileSync(psql, ["-XqAt", "-v", "ON_ERROR_STOP=1", process.env.DATABASE_URL, ...args])
        .toString()
        .trim();
}

/** The rows of a query, as whoever may read what the dashboards show and no more. */
export const asReader = (query) =>
    JSON.parse(
        sql(
            "-c",
            "SET ROLE drift_retention_reader",
            "-c",
            `SELECT coalesce(json_agg(shown), '[]') FROM (\n${query}\n) AS shown`,
        ),
    );

/** The product's command line; its exit status is the caller's to judge. */
export function product(...args) {
    try {
        return { status: 0, stdout: execFileSync(binary, args, { stdio: ["ignore", "pipe", "ignore"] }).toString() };
    } catch (failed) {
        return { status: failed.status, stdout: failed.stdout.toString() };
    }
}

/** A shipped example, with one setting after the other replaced; each must be there. */
function adapted(file, replacements) {
    return replacements.reduce(
        (text, [from, to]) => {
            if (text.search(from) < 0) throw new Error(`${file}: nothing to replace for ${from}`);
            return text.replace(from, to);
        },
        readFileSync(file, "utf8"),
    );
}

export class Stage {
    /** Programs by name. */
    running = new Map();
    /** What the webhook was told: one entry per alert and message. */
    told = [];

    constructor(directory) {
        this.directory = directory;
        rmSync(directory, { recursive: true, force: true });
        mkdirSync(directory, { recursive: true });
    }

    start(name, program, args, env = {}) {
        const log = openSync(`${this.directory}/${name}.log`, "a");
        const child = spawn(program, args, { env: { ...process.env, ...env }, stdio: ["ignore", log, log] });
        child.gone = new Promise((resolve) => child.once("exit", resolve).once("error", resolve));
        this.running.set(name, child);
    }

    async stop(name, signal = "SIGTERM") {
        const child = this.running.get(name);
        child.kill(signal);
        await child.gone;
        this.running.delete(name);
    }

    async end() {
        await Promise.all([...this.running.keys()].map((name) => this.stop(name)));
        this.webhook?.closeAllConnections();
        this.webhook?.close();
    }

    startWorker(name, roles) {
        const port = (this.workerPorts ??= new Map()).get(name);
        this.start(name, binary, ["serve", "--roles", roles], {
            DRIFT_RETENTION_HTTP__LISTEN: `127.0.0.1:${port}`,
            DRIFT_RETENTION_WORKER__HEARTBEAT: "500ms",
            DRIFT_RETENTION_WORKER__BACKOFF_BASE: "500ms",
            DRIFT_RETENTION_WORKER__BACKOFF_MAX: "2s",
            DRIFT_RETENTION_PURGE__BATCH_SIZE: "50",
        });
    }

    async startAll() {
        const [first, second, prometheus, alertmanager, webhook] = await Promise.all(
            Array.from({ length: 5 }, freePort),
        );
        this.workerPorts = new Map([
            ["first", first],
            ["second", second],
        ]);
        this.startWorker("first", "api,scheduler,worker");
        this.startWorker("second", "worker");
        await this.startWebhook(webhook);
        this.startAlertmanager(alertmanager, webhook);
        this.startPrometheus(prometheus, alertmanager);
        await until("every process is scraped", async () => (await this.query("sum(up)")) === 2);
    }

    /** The rules as they are, but for how long each has to hold. */
    startPrometheus(port, alertmanager) {
        this.prometheus = `http://127.0.0.1:${port}`;
        const targets = [...this.workerPorts.values()].map((port) => `"127.0.0.1:${port}"`).join(", ");
        const config = adapted(`${alerts}/prometheus.example.yaml`, [
            [/scrape_interval: \w+/, "scrape_interval: 1s"],
            [/evaluation_interval: \w+/, "evaluation_interval: 1s"],
            ["alertmanager:9093", `127.0.0.1:${alertmanager}`],
            ['"drift-retention:8080"', targets],
        ]);
        writeFileSync(`${this.directory}/prometheus.yaml`, config);
        writeFileSync(
            `${this.directory}/rules.yaml`,
            adapted(`${alerts}/rules.yaml`, [[/for: \d+[mh]/g, "for: 2s"]]),
        );
        this.start("prometheus", "prometheus", [
            `--config.file=${this.directory}/prometheus.yaml`,
            `--storage.tsdb.path=${this.directory}/prometheus`,
            `--web.listen-address=127.0.0.1:${port}`,
        ]);
    }

    startAlertmanager(port, webhook) {
        const config = adapted(`${alerts}/alertmanager.example.yaml`, [
            [/url: http\S+/g, `url: http://127.0.0.1:${webhook}/`],
            [/group_wait: \w+/, "group_wait: 1s"],
            [/group_interval: \w+/, "group_interval: 1s"],
        ]);
        writeFileSync(`${this.directory}/alertmanager.yaml`, config);
        this.start("alertmanager", "alertmanager", [
            `--config.file=${this.directory}/alertmanager.yaml`,
            `--storage.path=${this.directory}/alertmanager`,
            `--web.listen-address=127.0.0.1:${port}`,
            "--cluster.listen-address=",
        ]);
    }

    startWebhook(port) {
        this.webhook = createServer((request, response) => {
            let body = "";
            request.on("data", (part) => (body += part));
            request.on("end", () => {
                const { receiver, alerts } = JSON.parse(body);
                this.told.push(
                    ...alerts.map(({ status, labels, annotations }) => ({ receiver, status, labels, annotations })),
                );
                response.end();
            });
        });
        return new Promise((resolve) => this.webhook.listen(port, "127.0.0.1", resolve));
    }

    async #api(path, parameters) {
        const answer = await (
            await fetch(`${this.prometheus}/api/v1/${path}?${new URLSearchParams(parameters)}`)
        ).json();
        if (answer.status !== "success") throw new Error(`${answer.error}: ${JSON.stringify(parameters)}`);
        return answer.data.result;
    }

    /** The first value of an expression, now. */
    async query(expression) {
        const [series] = await this.#api("query", { query: expression });
        return series && Number(series.value[1]);
    }

    /** Every series of an expression, a value a second. */
    queryRange(expression, start, end, step = 1) {
        return this.#api("query_range", { query: expression, start, end, step });
    }
}

// The panels of the dashboards, on Prometheus and on Postgres, with variables and macros put in as Grafana would.
import { readFileSync } from "node:fs";
import { asReader } from "./stage.mjs";

export const dashboards = ["purge-overview", "workers", "organizations"].map((name) => ({
    name,
    ...JSON.parse(readFileSync(`dashboards/grafana/${name}.json`, "utf8")),
}));

/** Scraped every second, Grafana would take a few seconds at least; short charts look better a little smoother. */
const variables = { $__rate_interval: "8s", $instance: ".*" };

/** What Postgres groups by, in seconds: a bar of a chart. */
const interval = 5;

export function expanded(expression) {
    const text = Object.entries(variables).reduce((text, [name, value]) => text.replaceAll(name, value), expression);
    if (text.includes("$")) throw new Error(`an unknown variable in ${expression}`);
    return text;
}

/** As Grafana's Postgres datasource has it: macros with what is in brackets, variables in the format asked for. */
export function expandedSql(query, { start, end, organization = "" }) {
    const quoted = (text) => `'${text.replaceAll("'", "''")}'`;
    const time = (seconds) => quoted(new Date(seconds * 1000).toISOString());
    const known = {
        "${organization:sqlstring}": () => quoted(organization),
        $__timeFilter: (column) => `${column} BETWEEN ${time(start)} AND ${time(end)}`,
        $__timeGroupAlias: (column, size) => {
            const seconds = parseInt(size, 10);
            return `floor(extract(epoch from ${column})/${seconds})*${seconds} AS "time"`;
        },
    };
    return query
        .replace(/\$__interval\b/g, `${interval}s`)
        .replace(/(\$(?:{[^}]*}|\w*))(?:\(([^()]*)\))?/g, (_, name, inBrackets) => {
            if (!Object.hasOwn(known, name)) throw new Error(`an unknown macro or variable, ${name}, in ${query}`);
            return known[name](...(inBrackets ?? "").split(",").map((argument) => argument.trim()));
        });
}

/** Its points, without those that are no number. */
export const points = (series) =>
    series.values.map(([at, value]) => [at, Number(value)]).filter(([, value]) => Number.isFinite(value));

async function fromPrometheus(stage, panel, { expr, legendFormat }, { start, end }) {
    const all = await stage.queryRange(expanded(expr), start, end);
    const series = all.map((series) => ({
        name: legendFormat.replace(/{{(\w+)}}/g, (_, label) => series.metric[label] ?? "") || panel.title,
        points: points(series),
    }));
    return { expr, series: series.filter(({ points }) => points.length) };
}

/** Rows as they are for a table; else series: by their metric if they have times, or the last row's, by column. */
function fromPostgres(panel, { rawSql, format }, when) {
    const rows = asReader(expandedSql(rawSql, when));
    if (panel.type === "table") return { expr: rawSql, series: [], rows };
    if (format === "table") {
        const columns = Object.entries(rows.at(-1) ?? {});
        const name = (column) => (columns.length > 1 ? column : panel.title);
        const series = columns.map(([column, value]) => ({ name: name(column), points: [[when.end, value]] }));
        return { expr: rawSql, series };
    }
    const byMetric = new Map();
    for (const { time, metric, ...values } of rows) {
        if (!byMetric.has(metric)) byMetric.set(metric, []);
        byMetric.get(metric).push([time, Object.values(values)[0]]);
    }
    const series = [...byMetric].map(([name, points]) => ({ name, points }));
    return { expr: rawSql, series: series.sort((a, b) => (a.name < b.name ? -1 : 1)) };
}

/**
 * Every target of a panel with its series, or its rows if it is a table, and the seconds from one point to the next. A
 * series' name is what Grafana makes of its legend format. `when` has start and end, and what is typed into the box.
 */
export async function evaluated(stage, panel, when) {
    const onPostgres = panel.datasource.type === "grafana-postgresql-datasource";
    const targets = await Promise.all(
        panel.targets.map((target) =>
            onPostgres ? fromPostgres(panel, target, when) : fromPrometheus(stage, panel, target, when),
        ),
    );
    return { panel, targets, step: onPostgres ? interval : 1 };
}

/** What has no data, or nothing but zeros, of what a target shows: all of it, or a column of its table. */
export function empty({ series, rows }) {
    const shows = (value) => value !== null && value !== "" && value !== 0;
    if (!rows?.length) {
        if (series.some(({ points }) => points.some(([, value]) => shows(value)))) return [];
        return [series.length ? "nothing but 0" : "no data"];
    }
    const columns = Object.keys(rows[0]).filter((column) => !rows.some((row) => shows(row[column])));
    return columns.map((column) => `nothing in ${column}`);
}

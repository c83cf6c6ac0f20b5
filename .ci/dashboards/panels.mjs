// The panels of the dashboards on Prometheus, with Grafana's variables put in as Grafana would.
import { readFileSync } from "node:fs";

export const dashboards = ["purge-overview", "workers"].map((name) => ({
    name,
    ...JSON.parse(readFileSync(`dashboards/grafana/${name}.json`, "utf8")),
}));

/** Scraped every second, Grafana would take a few seconds at least; short charts look better a little smoother. */
const variables = { $__rate_interval: "8s", $instance: ".*" };

export function expanded(expression) {
    const text = Object.entries(variables).reduce((text, [name, value]) => text.replaceAll(name, value), expression);
    if (text.includes("$")) throw new Error(`an unknown variable in ${expression}`);
    return text;
}

/** Its points, without those that are no number. */
export const points = (series) =>
    series.values.map(([at, value]) => [at, Number(value)]).filter(([, value]) => Number.isFinite(value));

/** Every target of a panel with its series; a series' name is what Grafana makes of its legend format. */
export async function evaluated(stage, panel, start, end) {
    const found = await Promise.all(
        panel.targets.map(async ({ expr, legendFormat }) => {
            const all = await stage.queryRange(expanded(expr), start, end);
            const series = all.map((series) => ({
                name: legendFormat.replace(/{{(\w+)}}/g, (_, label) => series.metric[label] ?? "") || panel.title,
                points: points(series),
            }));
            return { expr, series: series.filter(({ points }) => points.length) };
        }),
    );
    return { panel, targets: found };
}

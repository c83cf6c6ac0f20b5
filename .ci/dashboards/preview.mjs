// Draws dashboards from what a live Prometheus and Postgres answer: panels in Grafana's places, stats as tiles, tables
// as tables, series by uPlot, in a page that Chromium takes a picture of. A likeness that shows the data, not Grafana's
// own looks.
import { execFileSync } from "node:child_process";
import { readFileSync, writeFileSync } from "node:fs";
import { resolve } from "node:path";
import { dashboards, evaluated } from "./panels.mjs";

const uplot = (file) => readFileSync(`target/tools/dashboards/node_modules/uplot/dist/${file}`, "utf8");
const cell = { width: 62, height: 30, gap: 8 };
const named = {
    green: "#299438",
    red: "#d8342c",
    blue: "#2f6fd0",
    orange: "#e07b16",
    purple: "#8f3bb8",
    text: "#7a7f87",
    transparent: "none",
};
const palette = ["#2f6fd0", "#e07b16", "#299438", "#8f3bb8", "#d8342c", "#11969b", "#9a6a00", "#5b6470"];

/** Runs in the page as well: it has to stand on its own. */
function formatted(value, unit) {
    const short = (number) => (Math.abs(number) >= 100 ? number.toFixed(0) : String(+number.toPrecision(3)));
    if (value === undefined || value === null) return "–";
    // Seconds where there are any: a slot has none.
    if (unit === "dateTimeAsIso")
        return new Date(value).toISOString().slice(0, 19).replace("T", " ").replace(/:00$/, "");
    if (unit === "dateTimeFromNow") return `${formatted(Math.round((Date.now() - new Date(value)) / 1000), "s")} ago`;
    if (unit === "s") {
        const [size, name] = [
            [86400, "d"],
            [3600, "h"],
            [60, "min"],
            [1, "s"],
            [0.001, "ms"],
        ].find(([size]) => Math.abs(value) >= size) ?? [1, "s"];
        return `${short(value / size)} ${name}`;
    }
    if (unit === "bytes") return `${short(value / 2 ** 20)} MiB`;
    const text = Math.abs(value) >= 10_000 ? `${short(value / 1000)} K` : short(value);
    return text + (unit === "rowsps" ? " rows/s" : unit.startsWith("suffix:") ? unit.slice(7) : "");
}

/** What a legend calculates, as Grafana calls it. */
const calculations = {
    lastNotNull: { title: "Last", of: (values) => values.at(-1) },
    max: { title: "Max", of: (values) => Math.max(...values) },
    sum: { title: "Total", of: (values) => values.reduce((sum, value) => sum + value, 0) },
};

const escaped = (text) => text.replace(/[&<>]/g, (c) => ({ "&": "&amp;", "<": "&lt;", ">": "&gt;" })[c]);

function tile({ panel, targets }) {
    const { unit, thresholds, color } = panel.fieldConfig.defaults;
    const all = targets.flatMap(({ series }) => series);
    const values = all.map(({ name, points }) => ({ name, value: points.at(-1)[1] }));
    const step = thresholds.steps.findLast(({ value }) => value === null || values[0].value >= value);
    const shade = named[color.fixedColor ?? step.color];
    const style = { background: `background:${shade};color:#fff`, value: `color:${shade}`, none: "" }[
        panel.options.colorMode
    ];
    const shown = values.map(({ name, value }) => {
        const label = name === panel.title ? "" : `<small>${escaped(name)}</small>`;
        return `<b>${formatted(value, unit)}</b>${label}`;
    });
    return `<div class="tile" style="${style}">${shown.join("")}</div>`;
}

/** Series side by side at the same times, as uPlot takes them; where one has no value there is null. */
function chart({ panel, targets, step }, { start, end }) {
    const { unit, custom, thresholds } = panel.fieldConfig.defaults;
    const series = targets.flatMap(({ series }) => series);
    const bars = custom.drawStyle === "bars";
    // Bars stand in the middle of their time: the first and the last are to have room.
    const [first, last] = [start, end].map((time, n) => Math.floor(time / step) + (bars ? 2 * n - 1 : 0));
    const times = Array.from({ length: last - first + 1 }, (_, n) => (first + n) * step);
    const values = series.map(({ points }) => {
        const at = new Map(points.map(([time, value]) => [Math.floor(time / step) * step, value]));
        return times.map((time) => at.get(time) ?? null);
    });
    const colors = series.map(({ name }, n) => {
        const override = panel.fieldConfig.overrides.find(({ matcher }) => matcher.options === name);
        return named[override?.properties[0].value.fixedColor] ?? palette[n % palette.length];
    });
    const line = custom.thresholdsStyle.mode === "off" ? null : thresholds.steps.at(-1).value;
    const shown = panel.options.legend.calcs.map((name) => calculations[name]);
    const legend = series.map(({ name }, n) => {
        const known = values[n].filter((value) => value !== null);
        const numbers = shown.map((calculation) => `<td>${formatted(calculation.of(known), unit)}</td>`);
        return `<tr><td><i style="background:${colors[n]}"></i>${escaped(name)}</td>${numbers.join("")}</tr>`;
    });
    const stacked = custom.stacking.mode === "normal";
    const data = JSON.stringify({ times, values, colors, unit, line, stacked, bars });
    const titles = ["Name", ...shown.map(({ title }) => title)].map((title) => `<th>${title}</th>`);
    return `<div class="chart" data-chart='${data}'></div>
    <table class="legend"><tr>${titles.join("")}</tr>${legend.join("")}</table>`;
}

/** Rows by their columns, each in its own unit; of an id, which is too long to be read anyway, there is the end. */
function table({ panel, targets }) {
    const rows = targets.flatMap(({ rows }) => rows);
    const columns = Object.keys(rows[0]).map((name) => {
        const override = panel.fieldConfig.overrides.find(({ matcher }) => matcher.options === name);
        const unit = override?.properties.find(({ id }) => id === "unit")?.value ?? panel.fieldConfig.defaults.unit;
        return { name, unit, number: rows.some((row) => typeof row[name] === "number") };
    });
    const text = (value, { unit, number }) => {
        if (value === null) return "";
        if (number || unit.startsWith("dateTime")) return formatted(value, unit);
        return escaped(String(value).replace(/^[\da-f]{8}-(?:[\da-f]{4}-){3}(?=[\da-f]{12}$)/, "…"));
    };
    const tagged = (tag, { number }, content) => `<${tag}${number ? ' class="number"' : ""}>${content}</${tag}>`;
    const cells = (tag, content) => columns.map((column) => tagged(tag, column, content(column))).join("");
    const body = rows.map((row) => `<tr>${cells("td", (column) => text(row[column.name], column))}</tr>`);
    return `<div class="rows"><table><thead><tr>${cells("th", ({ name }) => escaped(name))}</tr></thead>
    <tbody>${body.join("\n")}</tbody></table></div><footer></footer>`;
}

/** In the page: leaves a table the rows that there is room for, and draws every chart into what its legend leaves. */
function draw() {
    for (const element of document.querySelectorAll(".rows")) {
        const rows = [...element.querySelectorAll("tbody tr")];
        const all = rows.length;
        while (element.scrollHeight > element.clientHeight) rows.pop().remove();
        element.nextElementSibling.textContent = `1 – ${rows.length} of ${all} rows`;
    }
    for (const element of document.querySelectorAll(".chart")) {
        const { times, values, colors, unit, line, stacked, bars } = JSON.parse(element.dataset.chart);
        // Stacked from the first on; drawn from the topmost down, each over the one before. Of nothing there is no bar.
        const top = (n, at) => values.slice(0, n + 1).reduce((sum, all) => sum + (all[at] ?? 0), 0);
        const tops = stacked
            ? values.map((own, n) => times.map((_, at) => (bars && !own[at] ? null : top(n, at))))
            : values;
        const order = tops.map((_, n) => n);
        if (stacked) order.reverse();
        const series = order.map((n) => ({
            stroke: colors[n],
            width: 1.5,
            fill: stacked ? `color-mix(in srgb, ${colors[n]} 45%, white)` : undefined,
            points: { show: false },
            spanGaps: false,
            paths: bars ? uPlot.paths.bars({ size: [0.8, 60] }) : undefined,
        }));
        const highest = Math.max(line === null ? 0 : line * 1.1, ...tops.flat().filter((value) => value !== null));
        // Steps that are round in the unit that they are shown in.
        const round = { s: [1, 60, 3600, 86400], bytes: [2 ** 20] }[unit]?.flatMap((base) =>
            [1, 2, 5, 10, 20, 50, 100, 200].map((n) => n * base),
        );
        const steps = round && highest >= round[0] * 3 ? { incrs: round } : {};
        const grid = { stroke: "#e4e7ea", width: 1 };
        const axis = { stroke: "#5b6470", grid, ticks: grid, font: "11px sans-serif" };
        const threshold = (plot) => {
            if (line === null) return;
            const y = plot.valToPos(line, "y", true);
            plot.ctx.save();
            plot.ctx.strokeStyle = "#d8342c";
            plot.ctx.setLineDash([6, 5]);
            plot.ctx.beginPath();
            plot.ctx.moveTo(plot.bbox.left, y);
            plot.ctx.lineTo(plot.bbox.left + plot.bbox.width, y);
            plot.ctx.stroke();
            plot.ctx.restore();
        };
        new uPlot(
            {
                width: element.clientWidth,
                height: element.clientHeight,
                legend: { show: false },
                cursor: { show: false },
                scales: { y: { range: [0, (highest || 1) * 1.05] } },
                axes: [
                    axis,
                    { ...axis, ...steps, size: 84, values: (_, ticks) => ticks.map((tick) => formatted(tick, unit)) },
                ],
                series: [{}, ...series],
                hooks: { draw: [threshold] },
            },
            [times, ...order.map((n) => tops[n])],
            element,
        );
    }
}

function page(dashboard, found, when) {
    const place = ({ x, y, w, h }) =>
        `left:${x * cell.width}px;top:${y * (cell.height + cell.gap) + 64}px;width:${w * cell.width - cell.gap}px;` +
        `height:${h * (cell.height + cell.gap) - cell.gap}px`;
    const body = dashboard.panels.map((panel) => {
        if (panel.type === "row") return `<h2 style="${place(panel.gridPos)}">${escaped(panel.title)}</h2>`;
        const one = found.find((one) => one.panel === panel);
        const inside = { stat: tile, timeseries: chart, table }[panel.type](one, when);
        return `<section style="${place(panel.gridPos)}"><h3>${escaped(panel.title)}</h3>${inside}</section>`;
    });
    return `<!doctype html><meta charset="utf-8"><style>${uplot("uPlot.min.css")}
    body { margin: 0; background: #f1f3f5; font: 13px/1.35 "DejaVu Sans", sans-serif; color: #22272e }
    h1 { position: absolute; margin: 0; left: 16px; top: 14px; font-size: 21px }
    h1 small { font-weight: normal; font-size: 13px; color: #5b6470; margin-left: 10px }
    h2 { position: absolute; margin: 0; font-size: 15px; padding: 5px 8px; box-sizing: border-box }
    section { position: absolute; background: #fff; border: 1px solid #dfe3e7; border-radius: 4px; box-sizing: border-box;
      padding: 6px 10px; display: flex; flex-direction: column; overflow: hidden }
    h3 { margin: 0 0 4px; font-size: 13px }
    .tile { flex: 1; border-radius: 4px; display: flex; align-items: center; justify-content: center; gap: 10px; flex-wrap: wrap }
    .tile b { font-size: 24px; white-space: nowrap } section { container-type: inline-size }
    @container (width < 260px) { .tile b { font-size: 21px } }
    .chart { flex: 1; min-height: 0 }
    table { border-collapse: collapse; font-size: 12px; color: #3b424b } th { text-align: left; font-weight: normal; color: #7a7f87 }
    .legend td + td, .legend th + th { text-align: right; width: 96px } td, th { padding: 0 4px }
    .rows { flex: 1; min-height: 0; overflow: hidden } .rows table { width: 100% } .rows .number { text-align: right }
    .rows :is(td, th) { padding: 2px 6px; white-space: nowrap; max-width: 185px; overflow: hidden; text-overflow: ellipsis }
    .rows tr { border-bottom: 1px solid #e4e7ea } footer { text-align: right; font-size: 12px; color: #7a7f87; padding-top: 3px }
    i { display: inline-block; width: 14px; height: 4px; border-radius: 2px; margin-right: 8px; vertical-align: middle }
    main { position: absolute; left: 12px; top: 0 }
  </style><h1>${escaped(dashboard.title)}<small>${escaped(dashboard.description)}</small></h1><main>${body.join("\n")}</main>
  <script>${uplot("uPlot.iife.min.js")}\n${formatted}\n${draw}\ndraw()</script>`;
}

export async function preview(stage, when, say) {
    for (const dashboard of dashboards) {
        const charts = dashboard.panels.filter(({ type }) => type !== "row");
        const found = await Promise.all(charts.map((panel) => evaluated(stage, panel, when)));
        const file = resolve(`${stage.directory}/${dashboard.name}.html`);
        writeFileSync(file, page(dashboard, found, when));
        const rows = Math.max(...dashboard.panels.map(({ gridPos }) => gridPos.y + gridPos.h));
        const picture = `docs/dashboards-${dashboard.name}.png`;
        execFileSync(
            "chromium",
            [
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--hide-scrollbars",
                "--no-first-run",
                "--disable-background-networking",
                `--user-data-dir=${resolve(stage.directory)}/chromium`,
                `--window-size=${24 * cell.width + 16},${rows * (cell.height + cell.gap) + 72}`,
                `--screenshot=${resolve(picture)}`,
                `file://${file}`,
            ],
            { stdio: "ignore" },
        );
        say(`drew ${picture}`);
    }
}

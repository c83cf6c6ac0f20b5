// Dashboards against the JSON Schema made from Grafana's types: node validate.mjs SCHEMA DASHBOARD…
import { readFileSync } from "node:fs";
import { defaultDashboard } from "@grafana/schema";
import Ajv from "ajv";

const [schemaFile, ...files] = process.argv.slice(2);
const json = (file) => JSON.parse(readFileSync(file, "utf8"));
const schema = json(schemaFile);

// A panel that fits no kind fails every branch of the union: only the branch of its own kind says why.
const ajv = new Ajv({ allErrors: true, strict: false });
const isValid = ajv.compile(schema);
const ofOwnKind = (dashboard) => (error) => {
    const panel = error.instancePath.match(/^\/panels\/(\d+)/);
    const branch = error.schemaPath.match(/\/panels\/items\/anyOf\/(\d+)/);
    if (!panel || !branch) return true;
    const kind = schema.definitions.Dashboard.properties.panels.items.anyOf[branch[1]].properties.type.const;
    return kind === dashboard.panels[panel[1]].type;
};

let wrong = 0;
for (const file of files) {
    const dashboard = json(file);
    if (!isValid(dashboard)) {
        for (const error of isValid.errors.filter(ofOwnKind(dashboard))) {
            console.error(`${file}${error.instancePath}: ${error.message} ${JSON.stringify(error.params)}`);
        }
        wrong += 1;
    } else if (dashboard.schemaVersion !== defaultDashboard.schemaVersion) {
        console.error(
            `${file}: schemaVersion ${dashboard.schemaVersion}, current is ${defaultDashboard.schemaVersion}`,
        );
        wrong += 1;
    } else {
        console.log(`${file}: ${dashboard.panels.length} panels, valid`);
    }
}
process.exit(wrong ? 1 : 0);

// What a dashboard of ours is made of: Grafana's own types and, for the kinds of panel that we use, their own options.
// The paths are those of target/tools/dashboards, where .ci/check-dashboards.sh puts this file beside its packages.
import type * as dashboard from "./node_modules/@grafana/schema/dist/types/raw/dashboard/x/types.gen";
import type * as stat from "./node_modules/@grafana/schema/dist/types/raw/composable/stat/panelcfg/x/types.gen";
import type * as table from "./node_modules/@grafana/schema/dist/types/raw/composable/table/panelcfg/x/types.gen";
import type * as timeseries from "./node_modules/@grafana/schema/dist/types/raw/composable/timeseries/panelcfg/x/types.gen";

// Grafana's type of all panels leaves options and custom settings open; each kind has its own.
type PanelOf<Type extends string, Options, Custom> = Omit<dashboard.Panel, "type" | "options" | "fieldConfig"> & {
    type: Type;
    options: Options;
    fieldConfig: {
        defaults: Omit<dashboard.FieldConfig, "custom"> & { custom?: Custom };
        overrides: dashboard.FieldConfigSource["overrides"];
    };
};

type Panel =
    | PanelOf<"stat", stat.Options, never>
    | PanelOf<"table", table.Options, Partial<table.FieldConfig>>
    | PanelOf<"timeseries", timeseries.Options, timeseries.FieldConfig>
    | dashboard.RowPanel;

export interface Dashboard extends Omit<dashboard.Dashboard, "panels"> {
    panels: Panel[];
}

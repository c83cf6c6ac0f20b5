//! The document at `/openapi.json`: what programs and their generators hold on to.

use std::collections::BTreeSet;

use serde_json::Value;

fn document() -> Value {
    serde_json::to_value(drift_retention::http::openapi()).unwrap()
}

/// Every operation: method, path, description.
fn operations(document: &Value) -> Vec<(String, &str, &Value)> {
    let paths = document["paths"].as_object().unwrap();
    paths
        .iter()
        .flat_map(|(path, item)| {
            let operations = item.as_object().unwrap().iter();
            operations.map(|(method, is)| (method.to_uppercase(), path.as_str(), is))
        })
        .collect()
}

#[test]
fn routes_and_statuses_are_these() {
    let document = document();
    let mut lines: Vec<String> = operations(&document)
        .into_iter()
        .map(|(method, path, operation)| {
            let statuses: Vec<&str> = operation["responses"]
                .as_object()
                .unwrap()
                .keys()
                .map(String::as_str)
                .collect();
            format!("{method} {path} → {}", statuses.join(" "))
        })
        .collect();
    lines.sort_unstable();
    insta::assert_snapshot!(lines.join("\n"), @"
    GET /orgs/{orgId}/drift/dashboard → 200 4XX 503
    GET /orgs/{orgId}/environments → 200 4XX 503
    GET /orgs/{orgId}/environments/{environmentId} → 200 4XX 503
    GET /orgs/{orgId}/incidents → 200 4XX 503
    GET /orgs/{orgId}/incidents/{incidentId} → 200 4XX 503
    GET /orgs/{orgId}/retention/policy → 200 4XX 503
    GET /orgs/{orgId}/retention/preview → 200 4XX 503
    GET /orgs/{orgId}/retention/runs → 200 4XX 503
    GET /retention/runs → 200 4XX 503
    GET /retention/runs/{runId} → 200 4XX 503
    GET /retention/runs/{runId}/events → 200 4XX 503
    POST /orgs/{orgId}/retention/purge → 202 4XX 503
    POST /retention/runs/replay → 200 4XX 503
    POST /retention/runs/{runId}/cancel → 200 4XX 503
    POST /retention/runs/{runId}/replay → 202 4XX 503
    ");
}

#[test]
fn every_operation_asks_for_a_token_and_describes_its_errors() {
    let document = document();
    assert!(document["openapi"].as_str().unwrap().starts_with("3.1."));
    let scheme = &document["components"]["securitySchemes"]["bearer"];
    assert_eq!(
        (&scheme["type"], &scheme["scheme"]),
        (&"http".into(), &"bearer".into())
    );
    let mut ids = BTreeSet::new();
    for (method, path, operation) in operations(&document) {
        let what = format!("{method} {path}");
        let security = operation.get("security").unwrap_or(&document["security"]);
        assert_eq!(security, &serde_json::json!([{"bearer": []}]), "{what}");
        let id = operation["operationId"].as_str().unwrap();
        assert!(
            ids.insert(id.to_owned()),
            "{what}: {id} names another operation too"
        );
        let error = &operation["responses"]["4XX"]["content"]["application/problem+json"];
        assert_eq!(
            error["schema"]["$ref"], "#/components/schemas/Problem",
            "{what}"
        );
        let in_path = path.matches('{').count();
        let described = operation["parameters"].as_array().map_or(0, |parameters| {
            parameters
                .iter()
                .filter(|parameter| parameter["in"] == "path")
                .count()
        });
        assert_eq!(in_path, described, "{what}");
    }
}

#[test]
fn every_reference_leads_somewhere() {
    let document = document();
    let mut open = vec![&document];
    while let Some(value) = open.pop() {
        match value {
            Value::Object(members) => {
                if let Some(Value::String(target)) = members.get("$ref") {
                    let pointer = target.strip_prefix('#').unwrap();
                    assert!(document.pointer(pointer).is_some(), "{target}");
                }
                open.extend(members.values());
            }
            Value::Array(items) => open.extend(items),
            _ => {}
        }
    }
}

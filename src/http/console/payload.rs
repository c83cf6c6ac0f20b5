//! An incident's payload as people read it: workflow by workflow, change by change. What has another shape is still
//! there as JSON.

use maud::{Markup, html};
use serde_json::Value;

use super::page;

/// The workflows and their changes, and the whole as JSON, folded away.
pub(super) fn readable(payload: &Value) -> Markup {
    let workflows = payload["workflows"].as_array();
    html! {
        (origin(payload))
        @match workflows {
            Some(workflows) if !workflows.is_empty() => { @for workflow in workflows { (one(workflow)) } }
            _ => { p.empty { "The details name no workflow." } }
        }
        details {
            summary { "Raw JSON" }
            pre tabindex="0" { (pretty(payload)) }
        }
    }
}

/// What was compared with what.
fn origin(payload: &Value) -> Markup {
    let git = &payload["git"];
    html! {
        @if let (Some(branch), Some(commit)) = (git["branch"].as_str(), git["commit"].as_str()) {
            p.lead { "Compared with " code { (branch) } " at " code { (commit.get(..10).unwrap_or(commit)) }
                @if let Some(author) = git["author"].as_str() { " by " (author) } "." }
        }
    }
}

fn one(workflow: &Value) -> Markup {
    let name = workflow["name"].as_str().or(workflow["id"].as_str());
    let changes = workflow["nodes"]
        .as_array()
        .or(workflow["changes"].as_array());
    html! {
        section.workflow {
            h2 { (name.unwrap_or("A workflow without a name"))
                @if let Some(flag) = workflow["flag"].as_str() { " " (page::badge(flag)) } }
            @if let Some(editor) = workflow["edited_by"].as_str() { p.hint { "Edited by " (editor) } }
            @match changes {
                Some(changes) if !changes.is_empty() => { ul.changes { @for change in changes { (line(change)) } } }
                _ => { p.empty { "No change is listed." } }
            }
        }
    }
}

fn line(change: &Value) -> Markup {
    let what = change["change"].as_str().unwrap_or("changed");
    let node = change["node"]["name"]
        .as_str()
        .or(change["setting"].as_str());
    let detail = change["parameter"]
        .as_str()
        .or(change["credential_type"].as_str());
    let values = ["before", "after"].map(|key| change.get(key));
    html! {
        li {
            (page::words(what))
            @if let Some(node) = node { " · " strong { (node) } }
            @if let Some(detail) = detail { " · " code { (detail) } }
            @if let [Some(before), Some(after)] = values {
                div.values { del { (short(before)) } span aria-hidden="true" { " → " } ins { (short(after)) } }
            }
        }
    }
}

/// A value as it was written; a text without its quotes.
fn short(value: &Value) -> String {
    value
        .as_str()
        .map_or_else(|| value.to_string(), str::to_owned)
}

fn pretty(payload: &Value) -> String {
    serde_json::to_string_pretty(payload).unwrap_or_default()
}

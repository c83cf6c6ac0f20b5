//! Shows an incident's payload as a list of workflows and their changes, and as JSON. A payload of another shape is
//! shown only as JSON. The size on the page, and so the memory, is limited.

use std::borrow::Cow;

use maud::{Markup, html};
use serde_json::Value;

use super::page;

/// The most bytes on the page, for the changes of one workflow, for all workflows, for the JSON, and for one text.
const MAX_CHANGES_BYTES: usize = 100_000;
const MAX_WORKFLOWS_BYTES: usize = 250_000;
const MAX_JSON_BYTES: usize = 400_000;
const MAX_TEXT_BYTES: usize = 2_000;

/// The workflows and their changes, and the whole payload as collapsed JSON.
pub(super) fn readable(payload: &Value) -> Markup {
    let workflows = payload["workflows"].as_array();
    html! {
        (origin(payload))
        @match workflows {
            Some(workflows) if !workflows.is_empty() => {
                @let (shown, left) = page::fitting(workflows, MAX_WORKFLOWS_BYTES, one);
                (shown)
                (left_out(left))
            }
            _ => { p.empty { "The details name no workflow." } }
        }
        details {
            summary { "Raw JSON" }
            (json(&pretty(payload)))
        }
    }
}

/// A payload that parsers cannot read as JSON, as text.
pub(super) fn unreadable(text: &str) -> Markup {
    html! {
        p.empty { "The details contain a number or a nesting that cannot be parsed as JSON here. This is their text." }
        (json(text))
    }
}

fn json(text: &str) -> Markup {
    let shown = page::beginning(text, MAX_JSON_BYTES);
    let is_cut = matches!(shown, Cow::Owned(_));
    html! {
        pre tabindex="0" { (shown) }
        @if is_cut { p.hint { "This page has no room for the rest. The API answers with all of it." } }
    }
}

fn left_out(left: usize) -> Markup {
    html! { @if left > 0 { p.hint { "This page has no room for " (left) " more." } } }
}

fn text(value: &Value) -> Option<Cow<'_, str>> {
    Some(page::beginning(value.as_str()?, MAX_TEXT_BYTES))
}

/// The git commit that the check compared with.
fn origin(payload: &Value) -> Markup {
    let git = &payload["git"];
    html! {
        @if let (Some(branch), Some(commit)) = (text(&git["branch"]), text(&git["commit"])) {
            p.lead { "Compared with " code { (branch) } " at " code { (commit.get(..10).unwrap_or(&commit)) }
                @if let Some(author) = text(&git["author"]) { " by " (author) } "." }
        }
    }
}

fn one(workflow: &Value) -> Markup {
    let name = text(&workflow["name"]).or(text(&workflow["id"]));
    let changes = workflow["nodes"]
        .as_array()
        .or(workflow["changes"].as_array());
    html! {
        section.workflow {
            h2 { (name.as_deref().unwrap_or("A workflow without a name"))
                @if let Some(flag) = text(&workflow["flag"]) { " " (page::badge(&flag)) } }
            @if let Some(editor) = text(&workflow["edited_by"]) { p.hint { "Edited by " (editor) } }
            @match changes {
                Some(changes) if !changes.is_empty() => {
                    @let (shown, left) = page::fitting(changes, MAX_CHANGES_BYTES, line);
                    ul.changes { (shown) }
                    (left_out(left))
                }
                _ => { p.empty { "No change is listed." } }
            }
        }
    }
}

fn line(change: &Value) -> Markup {
    let what = text(&change["change"]).unwrap_or("changed".into());
    let node = text(&change["node"]["name"]).or(text(&change["setting"]));
    let detail = text(&change["parameter"]).or(text(&change["credential_type"]));
    let values = ["before", "after"].map(|key| change.get(key));
    html! {
        li {
            (page::spaced_name(&what))
            @if let Some(node) = node { " · " strong { (node) } }
            @if let Some(detail) = detail { " · " code { (detail) } }
            @if let [Some(before), Some(after)] = values {
                div.values { del { (short(before)) } span aria-hidden="true" { " → " } ins { (short(after)) } }
            }
        }
    }
}

/// A value as JSON, or a text without its quotes.
fn short(value: &Value) -> String {
    let written = value
        .as_str()
        .map_or_else(|| value.to_string().into(), Cow::Borrowed);
    page::beginning(&written, MAX_TEXT_BYTES).into_owned()
}

/// Indented JSON, cut if it is long. Indentation can make it a hundred times as long.
fn pretty(payload: &Value) -> String {
    let mut written = vec![0; MAX_JSON_BYTES + 1];
    let mut room = written.as_mut_slice();
    // The writer fails at the size limit.
    let _ = serde_json::to_writer_pretty(&mut room, payload);
    let left = room.len();
    written.truncate(written.len() - left);
    String::from_utf8_lossy(&written).into_owned()
}

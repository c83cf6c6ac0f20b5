//! The frame of every page (head, navigation, signed-in user) and the small parts of pages.

use std::borrow::Cow;

use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use maud::{DOCTYPE, Markup, PreEscaped, html};
use uuid::Uuid;

use super::{assets, session::Visitor};
use crate::{drift::organizations::Organization, http::Role, humanize, ids::OrgId};

/// The position of a page in the navigation.
#[derive(Debug, Clone, Copy)]
pub(super) enum Place<'a> {
    Overview,
    Organizations,
    Runs,
    Actions,
    Org(&'a Organization, Tab),
}

/// The pages of one organization.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tab {
    Environments,
    Incidents,
    Dashboard,
    Retention,
}

impl Tab {
    const ALL: [Self; 4] = [
        Self::Environments,
        Self::Incidents,
        Self::Dashboard,
        Self::Retention,
    ];

    fn path_and_name(self) -> (&'static str, &'static str) {
        match self {
            Self::Environments => ("environments", "Environments"),
            Self::Incidents => ("incidents", "Incidents"),
            Self::Dashboard => ("dashboard", "Drift dashboard"),
            Self::Retention => ("retention", "Retention"),
        }
    }
}

/// A whole page for a signed-in user.
pub(super) fn page(visitor: &Visitor, place: Place<'_>, title: &str, content: &Markup) -> Markup {
    let identity = &visitor.identity;
    frame(
        title,
        &html! {
            nav aria-label="Console" {
                @if identity.role == Role::Operator {
                    (link("/console/overview", "Overview", matches!(place, Place::Overview)))
                    (link("/console/orgs", "Organizations", matches!(place, Place::Organizations | Place::Org(..))))
                    (link("/console/runs", "Runs", matches!(place, Place::Runs)))
                    (link("/console/actions", "Operator actions", matches!(place, Place::Actions)))
                }
            }
            form.session method="post" action="/signout" {
                span.who { (identity.subject) " " span.badge.plain { (identity.role.name()) } }
                (csrf(visitor))
                button.quiet type="submit" { "Sign out" }
            }
        },
        &html! {
            @if let Place::Org(org, tab) = place { (organization_head(org, tab)) }
            (content)
        },
    )
}

/// A page for a user who is not signed in.
pub(super) fn bare(title: &str, content: &Markup) -> Markup {
    frame(title, &html! {}, &html! { div.narrow { (content) } })
}

fn frame(title: &str, header: &Markup, content: &Markup) -> Markup {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                meta name="htmx-config" content=r#"{"includeIndicatorStyles":false,"allowEval":false,"historyCacheSize":0}"#;
                title { (title) " · drift-retention" }
                link rel="icon" type="image/svg+xml" href=(assets::path("icon.svg"));
                link rel="stylesheet" href=(assets::path("console.css"));
                script src=(assets::path("htmx.js")) defer {}
            }
            body {
                a.skip href="#content" { "Skip to content" }
                header { a.brand href="/console" { "drift-retention" } (header) }
                main id="content" tabindex="-1" { (content) }
            }
        }
    }
}

fn organization_head(org: &Organization, here: Tab) -> Markup {
    html! {
        div.organization {
            p.name { (org.name) " " span.badge.plain { (org.plan) } }
            nav.tabs aria-label="Organization" {
                @for tab in Tab::ALL {
                    @let (path, name) = tab.path_and_name();
                    (link(&org_path(org.id, path), name, tab == here))
                }
            }
        }
    }
}

fn link(href: &str, name: &str, here: bool) -> Markup {
    html! { a href=(href) aria-current=[here.then_some("page")] { (name) } }
}

/// The path of an organization's page.
pub(super) fn org_path(org: OrgId, page: &str) -> String {
    format!("/console/orgs/{org}/{page}")
}

/// The hidden field with the CSRF token, which every form contains.
pub(super) fn csrf(visitor: &Visitor) -> Markup {
    html! { input type="hidden" name="csrf" value=(visitor.csrf); }
}

/// A status as a coloured badge.
pub(super) fn badge(status: &str) -> Markup {
    let class = match status {
        "in_sync" | "succeeded" | "approved" | "closed" | "available" => "good",
        "drift" | "failed" | "rejected" | "critical" | "not_in_git" => "bad",
        "retrying" | "high" | "modified" | "detected" | "pending" => "warn",
        "running" | "queued" | "acknowledged" | "stabilized" | "reconciled" => "busy",
        _ => "plain",
    };
    html! { span class={ "badge " (class) } { (spaced_name(status)) } }
}

/// A name from the database in words: `in_sync` becomes `in sync`.
pub(super) fn spaced_name(name: &str) -> String {
    name.replace('_', " ")
}

/// The age of a time, with the exact time on hover.
pub(super) fn ago(now: DateTime<Utc>, at: DateTime<Utc>) -> Markup {
    html! { time datetime=(at.to_rfc3339_opts(SecondsFormat::Secs, true)) title=(exact(at)) { (humanize::age(now, at)) } }
}

/// The age of a time, or a dash.
pub(super) fn ago_or_dash(now: DateTime<Utc>, at: Option<DateTime<Utc>>) -> Markup {
    html! { @if let Some(at) = at { (ago(now, at)) } @else { (dash()) } }
}

/// The exact time: `2026-11-23 02:00:00 UTC`.
pub(super) fn exact(at: DateTime<Utc>) -> String {
    at.format("%Y-%m-%d %H:%M:%S UTC").to_string()
}

/// A duration in seconds, in readable units.
pub(super) fn seconds(length: f64) -> String {
    let length = TimeDelta::try_milliseconds(round(length * 1000.0)).unwrap_or(TimeDelta::MAX);
    humanize::duration(length)
}

#[allow(
    clippy::cast_possible_truncation,
    reason = "a cast saturates, and no figure is that large"
)]
fn round(figure: f64) -> i64 {
    figure.round() as i64
}

/// The dash for an absent value.
pub(super) fn dash() -> Markup {
    html! { span.dash aria-label="none" { "–" } }
}

/// A table that scrolls in a narrow window, also with the keyboard.
pub(super) fn table(caption: &str, table: &Markup) -> Markup {
    html! {
        div.scroll role="region" aria-label=(caption) tabindex="0" {
            table { caption.hidden { (caption) } (table) }
        }
    }
}

/// The most bytes of a table's rows. A page has at most a megabyte.
const MAX_ROWS_BYTES: usize = 400_000;

/// The rows of a table that fit on a page, and the number of omitted ones.
pub(super) fn rows<T>(items: &[T], row: impl Fn(&T) -> Markup) -> Markup {
    let (rows, left) = fitting(items, MAX_ROWS_BYTES, row);
    html! {
        (rows)
        @if left > 0 { tr { td.hint colspan="9" { "This page has no room for " (humanize::number(left)) " more." } } }
    }
}

/// The items that fit in `max_bytes`, and the number of omitted ones.
pub(super) fn fitting<T>(
    items: &[T],
    max_bytes: usize,
    show: impl Fn(&T) -> Markup,
) -> (Markup, usize) {
    let mut shown = String::new();
    for (index, item) in items.iter().enumerate() {
        let next = show(item).into_string();
        if shown.len() + next.len() > max_bytes {
            return (PreEscaped(shown), items.len() - index);
        }
        shown.push_str(&next);
    }
    (PreEscaped(shown), 0)
}

/// The text, cut so that its HTML fits in `max_bytes`.
pub(super) fn beginning(text: &str, max_bytes: usize) -> Cow<'_, str> {
    let mut taken = 0;
    let end = text.char_indices().find(|(_, letter)| {
        taken += match letter {
            '"' => "&quot;".len(),
            '&' => "&amp;".len(),
            '<' | '>' => "&lt;".len(),
            letter => letter.len_utf8(),
        };
        taken > max_bytes
    });
    end.map_or(Cow::Borrowed(text), |(end, _)| {
        Cow::Owned(format!("{}…", &text[..end]))
    })
}

/// A link to a run, labelled with the beginning of its id.
pub(super) fn run_link(run: Uuid) -> Markup {
    html! { a.id href={ "/console/runs/" (run) } title=(run) { (short(run)) } }
}

/// The beginning of an id, enough to distinguish a few.
pub(super) fn short(id: Uuid) -> String {
    id.simple().to_string()[..8].to_owned()
}

/// The button to the next page of a list.
pub(super) fn more(next: Option<impl std::fmt::Display>, path: &str, query: &str) -> Markup {
    html! {
        @if let Some(cursor) = next {
            @let and = if query.is_empty() { "" } else { "&" };
            p.more { a.button href={ (path) "?" (query) (and) "cursor=" (cursor) } { "Next page" } }
        }
    }
}

/// The field for a reason, with its limits.
pub(super) fn reason_field() -> Markup {
    html! {
        label for="reason" { "Reason" }
        input id="reason" name="reason" maxlength="1000" autocomplete="off";
        p.hint { "Stored in the record." }
    }
}

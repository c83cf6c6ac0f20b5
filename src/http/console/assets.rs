//! The console's static files. They are part of the binary, so a page loads nothing from another machine.

use axum::{
    http::header,
    response::{IntoResponse, Response},
};

use super::{Answer, visit::PagePath};
use crate::http::Problem;

const FILES: [(&str, &str, &[u8]); 3] = [
    (
        "console.css",
        "text/css; charset=utf-8",
        include_bytes!("assets/console.css"),
    ),
    (
        "htmx.js",
        "text/javascript; charset=utf-8",
        include_bytes!("assets/htmx-2.0.11.min.js"),
    ),
    (
        "icon.svg",
        "image/svg+xml",
        include_bytes!("assets/icon.svg"),
    ),
];

/// The path of a file. It differs between versions of the program, so caches stay correct.
pub(super) fn path(name: &str) -> String {
    format!("/console/assets/{}/{name}", env!("CARGO_PKG_VERSION"))
}

/// Sends a file.
pub(super) async fn file(PagePath((_, name)): PagePath<(String, String)>) -> Answer<Response> {
    let file = FILES.into_iter().find(|(known, ..)| *known == name);
    let (_, media_type, bytes) = file.ok_or_else(Problem::not_found)?;
    let headers = [
        (header::CONTENT_TYPE, media_type),
        (header::CACHE_CONTROL, "public, max-age=3600"),
    ];
    Ok((headers, bytes).into_response())
}

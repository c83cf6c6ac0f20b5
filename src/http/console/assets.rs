//! The console's own files, inside the binary: nothing is asked of any other machine.

use axum::{
    extract::Path,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};

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

/// A file's path: another version of the program has others.
pub(super) fn path(name: &str) -> String {
    format!("/console/assets/{}/{name}", env!("CARGO_PKG_VERSION"))
}

/// Sends a file.
pub(super) async fn file(Path((_, name)): Path<(String, String)>) -> Response {
    let Some((_, media_type, bytes)) = FILES.into_iter().find(|(known, ..)| *known == name) else {
        return StatusCode::NOT_FOUND.into_response();
    };
    let headers = [
        (header::CONTENT_TYPE, media_type),
        (header::CACHE_CONTROL, "public, max-age=3600"),
    ];
    (headers, bytes).into_response()
}

//! What a person reads, as text for snapshots: both streams and the exit code, with ids and times made stable.

use std::process::Output;

/// For `insta`: ids, times and ages that differ from run to run.
pub const CHANGING: [(&str, &str); 6] = [
    (
        r"\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b",
        "[id]",
    ),
    (r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(\.\d+)? UTC", "[time]"),
    (r" {2,}(\d+ s ago|now)\b", "  [age]"),
    (r"cli:\w+", "cli:[user]"),
    // Nothing is on a test's PATH: commands to be pasted name the program by where it is.
    (env!("CARGO_BIN_EXE_drift-retention"), "drift-retention"),
    (r"(?m) +$", ""),
];

/// Standard output.
pub fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// Standard error.
pub fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// Exit code, then both streams: all of what a caller sees.
pub fn shown(output: &Output) -> String {
    format!(
        "exit {}\n{}{}",
        output.status.code().unwrap(),
        stdout(output),
        stderr(output)
    )
}

/// A snapshot of what a person reads, in which ids, times and ages have names.
macro_rules! assert_reads {
    ($text:expr, @$expected:literal) => {{
        let text = $text;
        insta::with_settings!({filters => $crate::support::text::CHANGING.to_vec()}, {
            insta::assert_snapshot!(text, @$expected);
        });
    }};
}
pub(crate) use assert_reads;

/// As tokens have it: the URL-safe alphabet, without padding.
pub fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let word = (0..3).fold(0, |word, n| {
            word << 8 | usize::from(*chunk.get(n).unwrap_or(&0))
        });
        for n in 0..=chunk.len() {
            text.push(char::from(ALPHABET[word >> (18 - 6 * n) & 63]));
        }
    }
    text
}

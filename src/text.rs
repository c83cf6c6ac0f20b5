//! Makes text from other people safe to show. The database limits its length when it is read: `retention.excerpt` and
//! `retention.long_excerpt` (migration 0001).

use std::{borrow::Cow, fmt::Write};

/// Whether a character could control a terminal or change the direction of writing. Tabs and line breaks do not
/// count: people type them. `retention.enqueue_run` refuses the same characters.
#[must_use]
pub fn is_control(letter: char) -> bool {
    let is_blank = matches!(letter, '\t' | '\n' | '\r');
    let turns_direction = matches!(letter, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    turns_direction || letter.is_control() && !is_blank
}

/// The text for a terminal, with control characters escaped. Line breaks stay.
#[must_use]
pub fn visible(text: &str) -> Cow<'_, str> {
    escaped(text, |letter| letter == '\r' || is_control(letter))
}

/// The text on one line, for a table cell or a log line: control characters, tabs and line breaks are escaped.
#[must_use]
pub fn on_one_line(text: &str) -> Cow<'_, str> {
    escaped(text, |letter| {
        matches!(letter, '\t' | '\n' | '\r') || is_control(letter)
    })
}

/// Escapes characters as JSON and TOML do, so that a parser restores the original text.
fn escaped(text: &str, is_escaped: impl Fn(char) -> bool + Copy) -> Cow<'_, str> {
    if !text.contains(is_escaped) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '\t' if is_escaped(letter) => shown.push_str("\\t"),
            '\n' if is_escaped(letter) => shown.push_str("\\n"),
            '\r' => shown.push_str("\\r"),
            // Every control character fits in four digits.
            letter if is_escaped(letter) => {
                let _ = write!(shown, "\\u{:04x}", u32::from(letter));
            }
            letter => shown.push(letter),
        }
    }
    Cow::Owned(shown)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_steers_a_terminal_is_escaped_and_lines_stay_lines() {
        let text = "a\u{1b}[2J\u{7}\u{9b}1m\u{202e}b\r\n\tc";
        assert_eq!(visible(text), "a\\u001b[2J\\u0007\\u009b1m\\u202eb\\r\n\tc");
        assert_eq!(
            on_one_line(text),
            "a\\u001b[2J\\u0007\\u009b1m\\u202eb\\r\\n\\tc"
        );
        assert!(matches!(on_one_line("Zoë's 店 🦀"), Cow::Borrowed(_)));
    }

    proptest! {
        #[test]
        fn nothing_shown_steers_a_terminal_and_json_reads_back_what_was_written(text in any::<String>()) {
            prop_assert!(!visible(&text).contains(|letter| letter == '\r' || is_control(letter)));
            prop_assert!(!on_one_line(&text).contains(char::is_control));
            let json = serde_json::to_string(&text).unwrap();
            let read: String = serde_json::from_str(&visible(&json)).unwrap();
            prop_assert_eq!(read, text);
        }
    }
}

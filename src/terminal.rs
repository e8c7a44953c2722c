//! What others wrote, made fit for a terminal: members, keys, headers and errors can hold what moves
//! its cursor, colours it, or turns the direction of what follows. Pure.

/// Whether a terminal would obey instead of show it.
fn steers(c: char) -> bool {
    let turns = |c| matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    c.is_control() || matches!(c, '\u{2028}' | '\u{2029}') || turns(c)
}

/// As wide as it is: a `?` for each of them.
pub fn covered(text: &str) -> String {
    text.chars().map(|c| if steers(c) { '?' } else { c }).collect()
}

/// With each of them spelled out, as in `\u{1b}`.
pub fn escaped(text: &str) -> String {
    shortened(text, usize::MAX)
}

/// The same of at most so many characters.
pub fn shortened(text: &str, max: usize) -> String {
    let mut shown = String::with_capacity(text.len().min(max));
    for (index, c) in text.chars().enumerate() {
        if index == max {
            shown.push('…');
            break;
        }
        match steers(c) {
            true => shown.extend(c.escape_default()),
            false => shown.push(c),
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOSTILE: &str = "a\u{1b}[2J\u{9b}31m\u{202e}b\nc\u{2028}";

    #[test]
    fn nothing_steers_the_terminal() {
        assert_eq!(covered(HOSTILE), "a?[2J?31m?b?c?");
        assert_eq!(escaped(HOSTILE), "a\\u{1b}[2J\\u{9b}31m\\u{202e}b\\nc\\u{2028}");
        for text in ["Fresno, 東京", "ʻEwa Beach", "CA:10%3A30"] {
            assert_eq!((covered(text), escaped(text)), (text.to_owned(), text.to_owned()));
        }
    }

    #[test]
    fn what_is_too_long_is_cut_by_characters() {
        assert_eq!(shortened("ʻEwa Beach", 4), "ʻEwa…");
        assert_eq!(shortened("abcd", 4), "abcd");
        assert_eq!(shortened("a\u{202e}b", 9), "a\\u{202e}b");
    }
}

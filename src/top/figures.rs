//! Numbers, ages and texts as a terminal shows them. Pure.

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use unicode_width::{UnicodeWidthChar as _, UnicodeWidthStr as _};

/// 12,345
pub fn whole(number: u64) -> String {
    indicatif::HumanCount(number).to_string()
}

pub fn known(number: Option<u64>) -> String {
    number.map_or_else(|| "unknown".to_owned(), whole)
}

/// 3.4/s, 1,204/s
pub fn rate(per_second: Option<f64>) -> String {
    match per_second {
        None => "unknown".to_owned(),
        Some(rate) if rate < 9.95 => format!("{rate:.1}/s"),
        // `as` stops at the ends of u64.
        Some(rate) => format!("{}/s", whole(rate.round() as u64)),
    }
}

/// 12 ms, 3.4 s, 2 min 4 s, 3 h 1 min
pub fn span(seconds: f64) -> String {
    if seconds < 0.0995 {
        return format!("{:.0} ms", seconds.max(0.0) * 1000.0);
    }
    if seconds < 9.95 {
        return format!("{seconds:.1} s");
    }
    let seconds = seconds as u64;
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{minutes} min {} s", seconds % 60),
        3600..86_400 => format!("{hours} h {} min", minutes % 60),
        _ => format!("{} d {} h", whole(days), hours % 24),
    }
}

pub fn ago(seconds: f64) -> String {
    if seconds < 1.5 { "just now".to_owned() } else { format!("{} ago", span(seconds.floor())) }
}

/// Seconds from one RFC 3339 time to another; `None` where either is none.
pub fn seconds_between(from: Option<&str>, to: &str) -> Option<f64> {
    let parse = |text: &str| OffsetDateTime::parse(text, &Rfc3339).ok();
    Some((parse(to)? - parse(from?)?).as_seconds_f64().max(0.0))
}

/// In exactly so many columns, the end cut off or filled with blanks.
pub fn left(text: &str, columns: usize) -> String {
    let cut = cut(text, columns);
    let blanks = columns.saturating_sub(cut.width());
    cut + &" ".repeat(blanks)
}

/// The same, against the right.
pub fn right(text: &str, columns: usize) -> String {
    let cut = cut(text, columns);
    " ".repeat(columns.saturating_sub(cut.width())) + &cut
}

/// At most so many columns.
pub fn cut(text: &str, columns: usize) -> String {
    if text.width() <= columns {
        return text.to_owned();
    }
    let mut cut = String::new();
    let mut room = columns.saturating_sub(1);
    for c in text.chars() {
        let wide = c.width().unwrap_or(0);
        if wide > room {
            break;
        }
        room -= wide;
        cut.push(c);
    }
    if columns > 0 {
        cut.push('…');
    }
    cut
}

/// The last points of a history as a line of blocks, between its lowest and its highest.
pub fn line(history: &[(i64, u64)], columns: usize) -> String {
    const BLOCKS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let columns = columns.min(history.len());
    let values: Vec<u64> =
        (0..columns).map(|n| history[(n + 1) * history.len() / columns - 1].1).collect();
    let low = values.iter().min().copied().unwrap_or(0);
    let range = values.iter().max().copied().unwrap_or(0) - low;
    let block = |value: &u64| match range {
        0 => BLOCKS[3],
        // Below 8: the highest is 7 of 7.
        range => BLOCKS[(u128::from(value - low) * 7 / u128::from(range)) as usize],
    };
    values.iter().map(block).collect()
}

/// A bar of so many columns at most, in eighths.
pub fn bar(part: u64, of: u64, columns: usize) -> String {
    const EIGHTHS: [&str; 8] = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"];
    if of == 0 {
        return String::new();
    }
    let eighths = (u128::from(part) * columns as u128 * 8 / u128::from(of)) as usize;
    let eighths = eighths.min(columns * 8).max(usize::from(part > 0));
    "█".repeat(eighths / 8) + EIGHTHS[eighths % 8]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_for_people() {
        assert_eq!(whole(1_234_567), "1,234,567");
        assert_eq!(known(None), "unknown");
        assert_eq!(rate(Some(3.44)), "3.4/s");
        assert_eq!(rate(Some(1203.6)), "1,204/s");
        assert_eq!(rate(Some(f64::INFINITY)), format!("{}/s", whole(u64::MAX)));
        let spans = [(0.0123, "12 ms"), (3.44, "3.4 s"), (59.9, "59 s"), (124.0, "2 min 4 s")];
        let longer = [(10_861.0, "3 h 1 min"), (9e9, "104,166 d 16 h"), (-1.0, "0 ms")];
        for (seconds, text) in spans.into_iter().chain(longer) {
            assert_eq!(span(seconds), text);
        }
        assert_eq!(ago(0.4), "just now");
        let from = Some("2026-11-23T10:00:00Z");
        assert_eq!(seconds_between(from, "2026-11-23T10:00:01.5Z"), Some(1.5));
        assert_eq!(seconds_between(None, "2026-11-23T10:00:01Z"), None);
    }

    #[test]
    fn text_takes_the_columns_that_it_is_given() {
        assert_eq!(left("abc", 5), "abc  ");
        assert_eq!(right("abc", 5), "  abc");
        assert_eq!(left("abcdef", 4), "abc…");
        // Two columns each: the second does not fit beside the mark.
        assert_eq!(left("東京都", 4), "東… ");
        assert_eq!(cut("abc", 0), "");
    }

    #[test]
    fn a_line_goes_from_lowest_to_highest() {
        let history: Vec<(i64, u64)> = (0..100).map(|n| (n, n as u64)).collect();
        assert_eq!(line(&history, 4), "▁▃▅█");
        assert_eq!(line(&[(0, 5), (1, 5)], 10), "▄▄");
        assert_eq!(line(&[], 10), "");
        assert_eq!(line(&[(0, 0), (1, u64::MAX)], 10), "▁█");
    }

    #[test]
    fn a_bar_is_as_long_as_its_share() {
        assert_eq!(bar(10, 10, 4), "████");
        assert_eq!(bar(5, 10, 3), "█▌");
        assert_eq!(bar(1, 1_000_000, 4), "▏");
        assert_eq!(bar(0, 10, 4), "");
        assert_eq!(bar(u64::MAX, u64::MAX, 2), "██");
        assert_eq!(bar(1, 0, 2), "");
    }
}

//! Numbers as people read them.

use std::time::Duration;

pub fn mib(mib: f64) -> String {
    format!("{mib:.0} MiB")
}

/// Three digits or so.
pub fn duration(took: Duration) -> String {
    let seconds = took.as_secs_f64();
    match seconds {
        _ if seconds < 1e-3 => format!("{:.0} µs", seconds * 1e6),
        _ if seconds < 0.1 => format!("{:.1} ms", seconds * 1e3),
        _ if seconds < 1.0 => format!("{:.0} ms", seconds * 1e3),
        _ if seconds < 100.0 => format!("{seconds:.1} s"),
        _ => format!("{seconds:.0} s"),
    }
}

/// `1,000,000`
pub fn grouped(number: u64) -> String {
    indicatif::HumanCount(number).to_string()
}

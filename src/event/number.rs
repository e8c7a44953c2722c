//! Numbers that are floats to JSON's readers and that jsonb, which is decimal, will not have.

/// `numeric` keeps so many digits after the point. The same is taken as the largest exponent, which
/// only a zero can have: all else is no 64-bit float by then.
pub const DIGITS_MAX: i64 = 16_383;

/// Whether `json`, which must be well formed, holds one.
pub fn is_too_long(json: &str) -> bool {
    let mut rest = json.as_bytes();
    while let Some(&byte) = rest.first() {
        rest = match byte {
            b'"' => after_string(&rest[1..]),
            b'0'..=b'9' => {
                let end = rest.iter().position(|byte| !is_part(*byte)).unwrap_or(rest.len());
                let (number, after) = rest.split_at(end);
                if exceeds(number) {
                    return true;
                }
                after
            }
            _ => &rest[1..],
        };
    }
    false
}

fn is_part(byte: u8) -> bool {
    matches!(byte, b'0'..=b'9' | b'.' | b'e' | b'E' | b'+' | b'-')
}

fn after_string(mut rest: &[u8]) -> &[u8] {
    loop {
        match rest {
            [b'"', after @ ..] => return after,
            [b'\\', _, after @ ..] | [_, after @ ..] => rest = after,
            [] => return rest,
        }
    }
}

fn exceeds(number: &[u8]) -> bool {
    let exponent_at = number.iter().position(|byte| matches!(byte, b'e' | b'E'));
    let (mantissa, exponent) = number.split_at(exponent_at.unwrap_or(number.len()));
    let point = mantissa.iter().position(|byte| *byte == b'.');
    let digits = point.map_or(0, |point| mantissa.len() - point - 1);
    let exponent = std::str::from_utf8(exponent.get(1..).unwrap_or_default()).unwrap_or_default();
    // One with too many digits for this is too large as well.
    let exponent: i64 = match exponent {
        "" => 0,
        text => text.parse().unwrap_or(i64::MAX / 2),
    };
    let digits = i64::try_from(digits).unwrap_or(i64::MAX / 2);
    digits - exponent > DIGITS_MAX || exponent > DIGITS_MAX
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is refused was tried on Postgres 15: "value overflows numeric format".
    #[test]
    fn the_limit_is_that_of_numeric() {
        let zeros = |n| format!("0.{}", "0".repeat(n));
        for (number, too_long) in [
            ("1e-16383", false),
            ("1e-16384", true),
            ("1.5e-16382", false),
            ("1.5e-16383", true),
            ("1.50e-16382", true),
            ("-10E-16384", true),
            ("0e99999", true),
            ("0e+999999999999999999999", true),
            ("1.5", false),
            ("-0", false),
            (&zeros(16_383), false),
            (&zeros(16_384), true),
        ] {
            assert_eq!(is_too_long(&format!("{{\"a\":[{number}]}}")), too_long, "{number:.40}");
        }
    }

    #[test]
    fn a_string_is_no_number() {
        assert!(!is_too_long(r#"{"1e-20000":"1e-20000","b":"\"1e-20000\\"}"#));
        assert!(is_too_long(r#"{"b":"\\","c":1e-20000}"#));
    }
}

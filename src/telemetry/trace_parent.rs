//! Where a message stands in its producer's trace: the W3C Trace Context header `traceparent`,
//! levels 1 and 2. Pure.
//!
//! Never takes what is not one for an error: the header is the producer's own, and an event is as
//! good without it. `tracestate` is not read: it is for those who go on with a trace, and we only
//! refer to it.

/// The name of the header, of a message as of a request.
pub const TRACEPARENT: &str = "traceparent";

/// `version-trace_id-span_id-flags`.
const LEN: usize = 55;

const SAMPLED: u8 = 1;

/// A span of somebody else's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TraceParent {
    pub trace_id: [u8; 16],
    pub span_id: [u8; 8],
    /// Whether its producer records it: there is no use in pointing to one that is nowhere.
    pub sampled: bool,
}

impl TraceParent {
    /// `None` for all that the standard calls invalid. A version that is yet to come is read by its
    /// first four fields, as the standard asks.
    pub fn parse(text: &[u8]) -> Option<TraceParent> {
        let (head, rest) = text.split_at_checked(LEN)?;
        let field = |from: usize, to: usize| &head[from..to];
        if [2, 35, 52].iter().any(|&at| head[at] != b'-') {
            return None;
        }
        match (hex(field(0, 2))?, rest.first()) {
            ([0], None) => {}
            ([0 | 0xff], _) => return None,
            (_, None | Some(b'-')) => {}
            (_, Some(_)) => return None,
        }
        let (trace_id, span_id) = (hex(field(3, 35))?, hex(field(36, 52))?);
        let [flags] = hex(field(53, 55))?;
        let is_valid = trace_id != [0; 16] && span_id != [0; 8];
        is_valid.then_some(TraceParent { trace_id, span_id, sampled: flags & SAMPLED != 0 })
    }
}

/// Lower case alone, two digits a byte.
fn hex<const N: usize>(digits: &[u8]) -> Option<[u8; N]> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const EXAMPLE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn with(at: usize, text: &str) -> String {
        format!("{}{text}{}", &EXAMPLE[..at], &EXAMPLE[at + text.len()..])
    }

    fn parse(text: impl AsRef<str>) -> Option<TraceParent> {
        TraceParent::parse(text.as_ref().as_bytes())
    }

    #[test]
    fn the_example_of_the_standard_is_read() {
        let parent = parse(EXAMPLE).unwrap();
        assert_eq!(parent.trace_id[..2], [0x4b, 0xf9]);
        assert_eq!(parent.span_id, [0x00, 0xf0, 0x67, 0xaa, 0x0b, 0xa9, 0x02, 0xb7]);
        assert!(parent.sampled);
        for (flags, sampled) in [("00", false), ("02", false), ("03", true), ("ff", true)] {
            assert_eq!(parse(with(53, flags)).unwrap().sampled, sampled, "{flags}");
        }
    }

    #[test]
    fn what_the_standard_calls_invalid_is_none() {
        let (zero_trace, zero_span) = ("0".repeat(32), "0".repeat(16));
        for text in [
            String::new(),
            "00".to_owned(),
            EXAMPLE[..54].to_owned(),
            format!("{EXAMPLE}-"),
            format!("{EXAMPLE}-00"),
            format!(" {EXAMPLE}"),
            EXAMPLE.to_uppercase(),
            with(0, "ff"),
            with(0, "0g"),
            with(0, "+0"),
            with(3, &zero_trace),
            with(36, &zero_span),
            with(3, "A"),
            with(36, " "),
            with(53, "0x"),
            with(2, "_"),
            with(35, "0"),
            with(52, "0"),
        ] {
            assert_eq!(parse(&text), None, "{text}");
        }
    }

    #[test]
    fn a_later_version_is_read_by_what_this_one_has() {
        let parent = parse(EXAMPLE);
        for version in ["01", "cc", "fe"] {
            let later = with(0, version);
            assert_eq!(parse(&later), parent);
            assert_eq!(parse(format!("{later}-what-comes")), parent);
            assert_eq!(parse(format!("{later}-")), parent);
            assert_eq!(parse(format!("{later}.")), None);
            assert_eq!(parse(format!("{later}00")), None);
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_again(
            version in 0_u8..=0xfe,
            trace_id: [u8; 16],
            span_id: [u8; 8],
            flags: u8,
        ) {
            let text = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
            let header =
                format!("{version:02x}-{}-{}-{flags:02x}", text(&trace_id), text(&span_id));
            let expected = (trace_id != [0; 16] && span_id != [0; 8])
                .then_some(TraceParent { trace_id, span_id, sampled: flags & 1 == 1 });
            prop_assert_eq!(parse(header), expected);
        }

        /// One byte changed: what is still read differs in nothing but that byte.
        #[test]
        fn no_bytes_whatever_panic_and_none_but_hex_are_read(at in 0_usize..LEN, byte: u8) {
            let mut bytes = EXAMPLE.as_bytes().to_vec();
            bytes[at] = byte;
            let fits = match at {
                2 | 35 | 52 => byte == b'-',
                // Two digits that are 00 here, and a version that is not ff.
                0 | 1 => matches!(byte, b'0'..=b'9' | b'a'..=b'f'),
                _ => matches!(byte, b'0'..=b'9' | b'a'..=b'f'),
            };
            prop_assert_eq!(TraceParent::parse(&bytes).is_some(), fits);
        }

        #[test]
        fn any_bytes_are_harmless(bytes: Vec<u8>) {
            let _ = TraceParent::parse(&bytes);
        }
    }
}

//! The encoding of one component of a key or member, and the way back.

/// Whether a byte is encoded: each byte of each member is looked up here.
const ENCODED: [bool; 256] = {
    let mut encoded = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        encoded[byte] = matches!(byte as u8, b'%' | b':' | b'{' | b'}' | 0..=0x1f | 0x7f);
        byte += 1;
    }
    encoded
};

/// Appends `component`, with `%`, `:`, `{`, `}`, bytes below 0x20 and 0x7f as `%` and two
/// upper-case hex digits. Injective, and no output holds a separator or a cluster hash tag.
pub fn encode(component: &str, out: &mut String) {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    let mut clean_from = 0;
    for (at, byte) in component.bytes().enumerate() {
        if !ENCODED[usize::from(byte)] {
            continue;
        }
        // All of these are ASCII, so `at` is a character boundary.
        out.push_str(&component[clean_from..at]);
        out.push('%');
        out.push(char::from(HEX[usize::from(byte >> 4)]));
        out.push(char::from(HEX[usize::from(byte & 15)]));
        clean_from = at + 1;
    }
    out.push_str(&component[clean_from..]);
}

/// The component that was encoded as `text`; a text that no component is encoded as stays as it is
/// where it differs.
pub fn decode(text: &str) -> String {
    let mut decoded = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((clean, coded)) = rest.split_once('%') {
        decoded.push_str(clean);
        match encoded_byte(coded) {
            Some(byte) => {
                decoded.push(char::from(byte));
                rest = &coded[2..];
            }
            None => {
                decoded.push('%');
                rest = coded;
            }
        }
    }
    decoded.push_str(rest);
    decoded
}

/// Whether some component is encoded as `text`.
pub fn is_encoded(text: &str) -> bool {
    let mut bytes = text.bytes().enumerate();
    bytes.all(|(at, byte)| match byte {
        b'%' => encoded_byte(&text[at + 1..]).is_some(),
        _ => !ENCODED[usize::from(byte)],
    })
}

/// The byte, always ASCII, whose two digits a text begins with.
fn encoded_byte(digits: &str) -> Option<u8> {
    let nibble = |digit: u8| match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    };
    let [high, low] = digits.as_bytes().first_chunk::<2>().copied()?;
    let byte = nibble(high)? << 4 | nibble(low)?;
    ENCODED[usize::from(byte)].then_some(byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_component_comes_back_as_it_went() {
        let all: String = (0..=0x7fu8).map(char::from).collect();
        for component in ["", "a:b", "100%", "%3A", "{tag}", "Åre\n", all.as_str()] {
            let mut text = String::new();
            encode(component, &mut text);
            assert_eq!(decode(&text), component);
            assert!(is_encoded(&text), "{text}");
        }
        for odd in ["%", "%4", "%zz", "%C3", "%3a", "%41", "%+4", "a%é"] {
            assert_eq!(decode(odd), odd);
            assert!(!is_encoded(odd), "{odd}");
        }
        for raw in ["a:b", "x{y", "\n", "\x7f"] {
            assert!(!is_encoded(raw), "{raw}");
        }
    }
}

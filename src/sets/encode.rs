//! The encoding of one component of a key or member.

/// Appends `component`, with `%`, `:`, `{`, `}`, bytes below 0x20 and 0x7f as `%` and two
/// upper-case hex digits. Injective, and no output holds a separator or a cluster hash tag.
pub fn encode(component: &str, out: &mut String) {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    let mut clean_from = 0;
    for (at, byte) in component.bytes().enumerate() {
        if !matches!(byte, b'%' | b':' | b'{' | b'}' | 0..=0x1f | 0x7f) {
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

//! Distinguished names as text (RFC 4514), in a form that a header field can hold whatever is in them.

use super::der::{Malformed, OID, Reader, SEQUENCE, SET};

/// The short names that RFC 4514, section 3, has for attributes, by the content of their identifiers.
const NAMES: [(&[u8], &str); 9] = [
    (&[0x55, 4, 3], "CN"),
    (&[0x55, 4, 7], "L"),
    (&[0x55, 4, 8], "ST"),
    (&[0x55, 4, 10], "O"),
    (&[0x55, 4, 11], "OU"),
    (&[0x55, 4, 6], "C"),
    (&[0x55, 4, 9], "STREET"),
    (&[0x09, 0x92, 0x26, 0x89, 0x93, 0xf2, 0x2c, 0x64, 1, 25], "DC"),
    (&[0x09, 0x92, 0x26, 0x89, 0x93, 0xf2, 0x2c, 0x64, 1, 1], "UID"),
];

/// `UTF8String`, `PrintableString`, `IA5String`.
const TEXTS: [u8; 3] = [0x0c, 0x13, 0x16];

/// The text of a name: RFC 4514, section 2.1: "starting with the last element of the sequence and moving backwards toward the first".
pub(super) fn text(name: &[u8]) -> Result<String, Malformed> {
    let mut reader = Reader::new(name);
    let mut parts = Vec::new();
    while !reader.is_empty() {
        let mut set = reader.enter(SET)?;
        let mut part = String::new();
        while !set.is_empty() {
            let mut attribute = set.enter(SEQUENCE)?;
            let kind = attribute.expect(OID)?.content;
            let value = attribute.next()?;
            if !part.is_empty() {
                part.push('+');
            }
            let known = NAMES.iter().find(|(oid, _)| *oid == kind);
            let text = std::str::from_utf8(value.content).ok().filter(|_| TEXTS.contains(&value.tag));
            match (known, text) {
                (Some((_, name)), Some(text)) => {
                    part.push_str(name);
                    part.push('=');
                    escape(text, &mut part);
                }
                // Section 2.4: a value of an attribute without a short name is its encoding in hexadecimal.
                _ => {
                    let name = known.map_or_else(|| dotted(kind), |(_, name)| (*name).to_owned());
                    part.push_str(&name);
                    part.push_str("=#");
                    value.whole.iter().for_each(|byte| hexadecimal(*byte, &mut part));
                }
            }
        }
        parts.push(part);
    }
    parts.reverse();
    Ok(parts.join(","))
}

/// Section 2.4: what has a meaning is escaped; and, as it allows, everything that is not visible ASCII by its bytes.
fn escape(text: &str, out: &mut String) {
    let last = text.len().saturating_sub(1);
    for (index, byte) in text.bytes().enumerate() {
        let at_the_edge = (index == 0 && matches!(byte, b' ' | b'#')) || (index == last && byte == b' ');
        match byte {
            b'"' | b'+' | b',' | b';' | b'<' | b'>' | b'\\' | b'=' => {
                out.push('\\');
                out.push(char::from(byte));
            }
            _ if at_the_edge => {
                out.push('\\');
                out.push(char::from(byte));
            }
            b' '..=b'~' => out.push(char::from(byte)),
            _ => {
                out.push('\\');
                hexadecimal(byte, out);
            }
        }
    }
}

fn hexadecimal(byte: u8, out: &mut String) {
    out.push_str(&format!("{byte:02X}"));
}

/// An identifier as numbers.
fn dotted(oid: &[u8]) -> String {
    let mut text = String::new();
    let mut number = 0_u64;
    for byte in oid {
        number = number.wrapping_shl(7) | u64::from(byte & 0x7f);
        if byte & 0x80 != 0 {
            continue;
        }
        if text.is_empty() {
            let first = (number / 40).min(2);
            text = format!("{first}.{}", number - 40 * first);
        } else {
            text.push_str(&format!(".{number}"));
        }
        number = 0;
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One attribute in a set of its own.
    fn part(oid: &[u8], tag: u8, value: &[u8]) -> Vec<u8> {
        let wrap = |tag: u8, content: &[u8]| [&[tag, u8::try_from(content.len()).unwrap()], content].concat();
        wrap(SET, &wrap(SEQUENCE, &[wrap(OID, oid), wrap(tag, value)].concat()))
    }

    #[test]
    fn names_are_written_backwards_and_escaped() {
        let name = [
            part(&[0x55, 4, 6], 0x13, b"DE"),
            part(&[0x55, 4, 10], 0x0c, "A, \"B\" + C\u{e9}".as_bytes()),
            part(&[0x55, 4, 3], 0x0c, b" #x\r\nX-Evil: 1 "),
        ]
        .concat();
        let expected = r#"CN=\ #x\0D\0AX-Evil: 1\ ,O=A\, \"B\" \+ C\C3\A9,C=DE"#;
        assert_eq!(text(&name).unwrap(), expected);
        assert_eq!(text(&part(&[0x55, 4, 3], 0x0c, b"a=b")).unwrap(), r"CN=a\=b");
        assert_eq!(text(&[]).unwrap(), "");
    }

    #[test]
    fn what_has_no_short_name_or_no_text_is_hexadecimal() {
        let mail = [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 9, 1];
        assert_eq!(text(&part(&mail, 0x16, b"a@b")).unwrap(), "1.2.840.113549.1.9.1=#1603614062");
        assert_eq!(text(&part(&[0x55, 4, 3], 0x1e, &[0, 65])).unwrap(), "CN=#1E020041");
        assert_eq!(text(&part(&[0x55, 4, 3], 0x0c, &[0xff])).unwrap(), "CN=#0C01FF");
    }
}

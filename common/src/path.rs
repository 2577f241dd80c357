//! The one form of a request's path: what rules are matched against is what targets get.
//!
//! Two servers that read a path differently are how a request gets past a rule. So a path is brought into its normal form
//! once, by RFC 3986, section 6.2.2: escapes of characters that need none are resolved, all others are written with capital
//! letters, what a path cannot hold is escaped, `.` and `..` are resolved. What would still be read differently by one server
//! or another is refused. Empty segments stay: `//a` is another path than `/a`.

/// Why a path or query cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// The first byte is another one.
    #[error("it does not start with '/'")]
    NotAbsolute,
    /// Something else follows a `%`.
    #[error("a '%' is not followed by two hexadecimal digits")]
    BadEscape,
    /// A control character, a space or `#`.
    #[error("it holds a control character, a space or '#'")]
    BadByte,
    /// Some servers take it for a slash.
    #[error("it holds a backslash, which some servers take for a slash")]
    Backslash,
    /// The end of the path for servers that are written in C.
    #[error("it holds an escaped NUL")]
    Nul,
    /// More `..` than segments before them.
    #[error("\"..\" leads above the root")]
    AboveRoot,
    /// A segment that stands for another one, where none is resolved.
    #[error("one of its segments is \".\" or \"..\"")]
    DotSegment,
    /// What becomes `..` for servers that resolve `%2F`, or cut off what follows `;`.
    #[error("\".\" or \"..\" stands beside an escaped slash or backslash, or before ';'")]
    HiddenDots,
}

/// Appends the normal form of `path`, which has no query, to `out`.
///
/// # Errors
///
/// Why it has none; `out` may then hold a part of it.
pub fn normalise(path: &[u8], out: &mut String) -> Result<(), PathError> {
    let Some(relative) = path.strip_prefix(b"/") else { return Err(PathError::NotAbsolute) };
    match as_it_is(relative) {
        Some(text) => {
            out.push('/');
            out.push_str(text);
            Ok(())
        }
        None => normalise_segments(relative, out),
    }
}

/// A path without its first slash, if it is its own normal form as most are: nothing in it that is, or has to be, escaped, and no segment that
/// begins with a dot.
fn as_it_is(relative: &[u8]) -> Option<&str> {
    let mut begins = true;
    let is_normal = relative.iter().all(|&byte| {
        let is_first = std::mem::replace(&mut begins, byte == b'/');
        byte == b'/' || (stays(byte) && !(is_first && byte == b'.'))
    });
    if is_normal { std::str::from_utf8(relative).ok() } else { None }
}

fn normalise_segments(relative: &[u8], out: &mut String) -> Result<(), PathError> {
    let base = out.len();
    let mut segments = relative.split(|byte| *byte == b'/').peekable();
    while let Some(segment) = segments.next() {
        let before = out.len();
        out.push('/');
        escape_segment(segment, out)?;
        let last = segments.peek().is_none();
        match &out[before + 1..] {
            "." => {
                out.truncate(before);
                out.push_str(if last { "/" } else { "" });
            }
            ".." => {
                let parent = out[base..before].rfind('/').ok_or(PathError::AboveRoot)?;
                out.truncate(base + parent);
                out.push_str(if last { "/" } else { "" });
            }
            text if hides_dots(text) => return Err(PathError::HiddenDots),
            _ => {}
        }
    }
    Ok(())
}

/// Appends the normal form of a query, without its `?`, to `out`: it is left as it is, but for what no request line can hold.
///
/// # Errors
///
/// Why it has none.
pub fn normalise_query(query: &[u8], out: &mut String) -> Result<(), PathError> {
    let is_left = |byte: &u8| byte.is_ascii_graphic() && *byte != b'#';
    if query.iter().all(is_left)
        && let Ok(text) = std::str::from_utf8(query)
    {
        out.push_str(text);
        return Ok(());
    }
    for &byte in query {
        match byte {
            b'#' => return Err(PathError::BadByte),
            _ if byte.is_ascii_graphic() => out.push(char::from(byte)),
            0x80.. => push_escape(byte, out),
            _ => return Err(PathError::BadByte),
        }
    }
    Ok(())
}

/// Appends a text as a part of a segment, or of a query, with nothing in it that has a meaning there: but for letters, digits, `-`, `.`, `_`,
/// `~` and `:` all is escaped.
pub fn push_escaped(text: &str, out: &mut String) {
    for byte in text.bytes() {
        if is_unreserved(byte) || byte == b':' {
            out.push(char::from(byte));
        } else {
            push_escape(byte, out);
        }
    }
}

/// More readings of a path than this nobody looks at.
const READINGS_MAX: usize = 32;

/// So many bytes they may have together.
const READINGS_BYTES_MAX: usize = 32 * 1024;

/// There are too many ways to read a path: more than 32, or more than 32 KiB of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("servers may read it in too many ways")]
pub struct TooManyReadings;

/// What lenient servers do with a normal path. None of it brings dot segments forth: [`normalise`] refuses what would become one.
const STEPS: [fn(&str) -> String; 4] =
    [merged, |path| path.replace("%2F", "/"), |path| path.replace("%5C", "/"), cut];

/// How lenient servers may read a normal path, wherever that is another path: they take escaped slashes or backslashes for slashes, leave out
/// what follows a `;` in a segment, or empty segments, each does some of that, and in an order of its own. So these are all paths that any
/// of these steps lead to, one after the other.
///
/// # Errors
///
/// That there are too many.
pub fn lenient_readings(path: &str) -> Result<Vec<String>, TooManyReadings> {
    if !path.contains(';') && !["//", "%2F", "%5C"].iter().any(|it| path.contains(it)) {
        return Ok(Vec::new());
    }
    let mut readings: Vec<String> = Vec::new();
    let mut bytes = 0;
    // The path itself is the one before the first.
    let mut next = 0;
    loop {
        let from = if next == 0 { Some(path) } else { readings.get(next - 1).map(String::as_str) };
        let Some(from) = from else { return Ok(readings) };
        for read in STEPS.map(|step| step(from)) {
            if read == path || readings.contains(&read) {
                continue;
            }
            bytes += read.len();
            if readings.len() == READINGS_MAX || bytes > READINGS_BYTES_MAX {
                return Err(TooManyReadings);
            }
            readings.push(read);
        }
        next += 1;
    }
}

/// A path without what follows a `;` in each segment.
fn cut(path: &str) -> String {
    let names: Vec<&str> =
        path.split('/').map(|segment| segment.split(';').next().unwrap_or_default()).collect();
    names.join("/")
}

/// A path without empty segments.
fn merged(path: &str) -> String {
    let mut read = String::with_capacity(path.len());
    for name in path.split('/').filter(|name| !name.is_empty()) {
        read.push('/');
        read.push_str(name);
    }
    if path.ends_with('/') || read.is_empty() {
        read.push('/');
    }
    read
}

/// Whether a path is its own normal form.
#[must_use]
pub fn is_normal(path: &str) -> bool {
    let mut normal = String::with_capacity(path.len());
    normalise(path.as_bytes(), &mut normal).is_ok() && normal == path
}

/// Resolves escapes as far as that says nothing else, for comparing values of a query: `+` is a space there.
#[must_use]
pub fn query_value(text: &str) -> Vec<u8> {
    let mut value = Vec::with_capacity(text.len());
    let bytes = text.as_bytes();
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let digit = |index: usize| bytes.get(index).copied().and_then(digit);
        match (byte, digit(at + 1), digit(at + 2)) {
            (b'%', Some(high), Some(low)) => {
                value.push(high << 4 | low);
                at += 3;
                continue;
            }
            (b'+', ..) => value.push(b' '),
            _ => value.push(byte),
        }
        at += 1;
    }
    value
}

/// Appends a segment with each byte as the normal form has it.
fn escape_segment(segment: &[u8], out: &mut String) -> Result<(), PathError> {
    let mut bytes = segment.iter().copied();
    while let Some(byte) = bytes.next() {
        match byte {
            _ if stays(byte) => out.push(char::from(byte)),
            b'%' => {
                let high = bytes.next().and_then(digit).ok_or(PathError::BadEscape)?;
                let low = bytes.next().and_then(digit).ok_or(PathError::BadEscape)?;
                match high << 4 | low {
                    0 => return Err(PathError::Nul),
                    byte if is_unreserved(byte) => out.push(char::from(byte)),
                    byte => push_escape(byte, out),
                }
            }
            b'\\' => return Err(PathError::Backslash),
            // No path holds these, but there are clients that leave them as they are.
            b'"' | b'<' | b'>' | b'[' | b']' | b'^' | b'`' | b'{' | b'|' | b'}' | 0x80.. => {
                push_escape(byte, out);
            }
            _ => return Err(PathError::BadByte),
        }
    }
    Ok(())
}

/// RFC 3986: `pchar = unreserved / pct-encoded / sub-delims / ":" / "@"`.
const fn stays(byte: u8) -> bool {
    is_unreserved(byte)
        || matches!(
            byte,
            b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b',' | b';' | b'=' | b':' | b'@'
        )
}

const fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

const fn digit(byte: u8) -> Option<u8> {
    match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        b'A'..=b'F' => Some(byte - b'A' + 10),
        _ => None,
    }
}

fn push_escape(byte: u8, out: &mut String) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    out.push('%');
    out.push(char::from(DIGITS[usize::from(byte >> 4)]));
    out.push(char::from(DIGITS[usize::from(byte & 0xf)]));
}

/// Whether a segment becomes `.` or `..`, or several with one of them among them, for a server that resolves escaped slashes
/// or takes `;` for the begin of parameters.
fn hides_dots(segment: &str) -> bool {
    if !segment.contains('.') {
        return false;
    }
    let dots = |part: &str| matches!(part.split(';').next(), Some("." | ".."));
    let mut rest = segment;
    loop {
        let next = [rest.find("%2F"), rest.find("%5C")].into_iter().flatten().min();
        let Some(at) = next else { return dots(rest) };
        if dots(&rest[..at]) {
            return true;
        }
        rest = &rest[at + 3..];
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use proptest::prelude::*;

    fn normal(path: &str) -> Result<String, PathError> {
        let mut out = String::new();
        normalise(path.as_bytes(), &mut out).map(|()| out)
    }

    /// The examples of RFC 3986, sections 5.2.4 and 6.2.2, and what is our own decision.
    #[test]
    fn paths_have_one_form() {
        let cases = [
            ("/", "/"),
            ("/a/b/c/./../../g", "/a/g"),
            ("/%7Esmith/home.html", "/~smith/home.html"),
            ("/%7esmith/", "/~smith/"),
            ("/a/../a/b", "/a/b"),
            ("/a/%2e%2E/b", "/b"),
            ("/a/.", "/a/"),
            ("/a/b/..", "/a/"),
            ("/a/..", "/"),
            ("/./", "/"),
            ("/...", "/..."),
            ("/a..b/.c", "/a..b/.c"),
            ("//a", "//a"),
            ("//a/..", "//"),
            ("/a//../b", "/a/b"),
            ("/a%2fb", "/a%2Fb"),
            ("/a%5cb", "/a%5Cb"),
            ("/%c3%bc", "/%C3%BC"),
            ("/\u{fc}", "/%C3%BC"),
            ("/a%20b", "/a%20b"),
            ("/a|b{c}[d]", "/a%7Cb%7Bc%7D%5Bd%5D"),
            ("/%252e%252e/x", "/%252e%252e/x"),
            ("/a;b=c/d", "/a;b=c/d"),
            ("/%0d%0aX", "/%0D%0AX"),
            ("/%41%2D", "/A-"),
        ];
        for (path, expected) in cases {
            assert_eq!(normal(path).as_deref(), Ok(expected), "{path}");
        }
    }

    #[test]
    fn what_servers_read_differently_is_refused() {
        use PathError::*;
        let cases = [
            ("", NotAbsolute),
            ("a", NotAbsolute),
            ("*", NotAbsolute),
            ("/..", AboveRoot),
            ("/a/../../b", AboveRoot),
            ("/%2e%2e", AboveRoot),
            ("/a\\b", Backslash),
            ("/a/..%2fb", HiddenDots),
            ("/a/..%5Cb", HiddenDots),
            ("/a%2f..", HiddenDots),
            ("/a%2f%2e%2e%2fb", HiddenDots),
            ("/.%2F", HiddenDots),
            ("/a/..;/b", HiddenDots),
            ("/a/..;x=1/b", HiddenDots),
            ("/a%00", Nul),
            ("/%", BadEscape),
            ("/%4", BadEscape),
            ("/%g0", BadEscape),
            ("/% 41", BadEscape),
            ("/a b", BadByte),
            ("/a#b", BadByte),
            ("/a\tb", BadByte),
            ("/a\u{7f}", BadByte),
        ];
        for (path, expected) in cases {
            assert_eq!(normal(path), Err(expected), "{path}");
        }
    }

    #[test]
    fn lenient_servers_read_other_paths() {
        let cases: [(&str, &[&str]); 16] = [
            ("/", &[]),
            ("/admin/x", &[]),
            ("/%C3%BC", &[]),
            ("//admin", &["/admin"]),
            ("/admin%2Fx", &["/admin/x"]),
            ("/admin%5Cx", &["/admin/x"]),
            ("/%2Fadmin", &["//admin", "/admin"]),
            ("/admin;a=b/x", &["/admin/x"]),
            ("/;a/admin", &["//admin", "/admin"]),
            ("/admin;%2Fx", &["/admin;/x", "/admin", "/admin/x"]),
            ("/;%2Fb/a/", &["/;/b/a/", "//a/", "//b/a/", "/a/", "/b/a/"]),
            ("/a//b//", &["/a/b/"]),
            ("//", &["/"]),
            ("/;x", &["/"]),
            // One step alone may lead below a path that all of them do not.
            ("//admin/login%2Fx", &["/admin/login%2Fx", "//admin/login/x", "/admin/login/x"]),
            // And so may one kind of escapes that is resolved before the parameters are cut off, or after.
            ("/a;x%5Cy%2Fb", &["/a;x%5Cy/b", "/a;x/y%2Fb", "/a", "/a;x/y/b", "/a/b", "/a/y%2Fb", "/a/y/b"]),
        ];
        for (path, expected) in cases {
            let read = lenient_readings(path).unwrap();
            assert_eq!(read, expected, "{path}");
        }
    }

    #[test]
    fn not_any_number_of_readings_is_looked_at() {
        // 53 of them.
        let many = "/%5C%2F%2F/;aa%2Fb/%5C/;bb%5Ca//aa";
        assert_eq!(lenient_readings(many), Err(TooManyReadings));
        let long = |length: usize| format!("/{};b", "a".repeat(length));
        assert_eq!(lenient_readings(&long(READINGS_BYTES_MAX - 1)).map(|all| all.len()), Ok(1));
        assert_eq!(lenient_readings(&long(READINGS_BYTES_MAX)), Err(TooManyReadings));
        // A path without anything special may have any length.
        assert_eq!(lenient_readings(&format!("/{}", "a".repeat(1 << 20))), Ok(Vec::new()));
    }

    #[test]
    fn queries_stay_as_they_are() {
        let normal = |query: &[u8]| {
            let mut out = String::new();
            normalise_query(query, &mut out).map(|()| out)
        };
        assert_eq!(normal(b"a=1&b=%zz?/{}").as_deref(), Ok("a=1&b=%zz?/{}"));
        assert_eq!(normal("\u{fc}".as_bytes()).as_deref(), Ok("%C3%BC"));
        for bad in [&b"a b"[..], b"a#b", b"a\0"] {
            assert_eq!(normal(bad), Err(PathError::BadByte));
        }
        assert_eq!(query_value("a+b%20c%2B%zz%4"), b"a b c+%zz%4");
    }

    /// What servers do with a path, written in another way than above.
    fn single_steps(path: &str) -> [String; 5] {
        let mut merged = path.to_owned();
        while merged.contains("//") {
            merged = merged.replace("//", "/");
        }
        let mut cut = String::new();
        let mut is_name = true;
        for character in path.chars() {
            is_name = character == '/' || (is_name && character != ';');
            if is_name {
                cut.push(character);
            }
        }
        let mut segments: Vec<&str> = Vec::new();
        for segment in path[1..].split('/') {
            match segment {
                "." => {}
                ".." => segments.truncate(segments.len().saturating_sub(1)),
                segment => segments.push(segment),
            }
        }
        let undotted = format!("/{}", segments.join("/"));
        [merged, cut, undotted, path.replace("%2F", "/"), path.replace("%5C", "/")]
    }

    proptest! {
        /// The readings are what any steps lead to, in any order, and nothing else.
        #[test]
        fn every_order_of_steps_is_read(path in "/(a|b|\\.|/|;|%2F|%5C){0,16}") {
            if let Ok(normal) = normal(&path) {
                let mut all = BTreeSet::from([normal.clone()]);
                loop {
                    let more: Vec<String> = all.iter().flat_map(|path| single_steps(path)).collect();
                    let before = all.len();
                    all.extend(more);
                    if all.len() == before {
                        break;
                    }
                }
                all.remove(&normal);
                match lenient_readings(&normal) {
                    Ok(readings) => {
                        let read: BTreeSet<String> = readings.iter().cloned().collect();
                        prop_assert_eq!(read.len(), readings.len(), "each once");
                        prop_assert_eq!(read, all);
                    }
                    Err(TooManyReadings) => prop_assert!(all.len() > READINGS_MAX, "{normal} {all:?}"),
                }
            }
        }

        /// What is left as it is would not be changed.
        #[test]
        fn plain_paths_are_normal(path in "[a-b./%25EF;\\\\]{0,12}") {
            let mut rewritten = String::new();
            let outcome = normalise_segments(path.as_bytes(), &mut rewritten).map(|()| rewritten);
            prop_assert_eq!(normal(&format!("/{path}")), outcome);
        }

        /// A path's normal form is its own, has no dot segments, and nothing but what a request line can hold.
        #[test]
        fn normal_forms_stay(path in "/[a-c./%25E;\\\\\u{80}-\u{ff}]{0,24}") {
            if let Ok(once) = normal(&path) {
                prop_assert_eq!(normal(&once), Ok(once.clone()));
                prop_assert!(is_normal(&once));
                prop_assert!(once.split('/').all(|segment| segment != "." && segment != ".."));
                prop_assert!(once.bytes().all(|byte| byte.is_ascii_graphic()));
            }
        }
    }
}

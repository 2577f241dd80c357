//! Which answers are compressed for which clients (RFC 9110, sections 8.4 and 12.5.3), and what is said of it in their heads.

use common::config::{Compressible, HeaderChanges};

use super::framing::{Field, ResponseBody, ResponseHead, members, trim};
use super::pass_on::replaces;

/// What becomes of an answer's content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Coding {
    /// It is as the target sends it, for everybody.
    AsSent,
    /// It is as the target sends it, and others may get it in another form, which caches have to know.
    Varying,
    /// It is compressed by gzip.
    Gzip,
}

/// Whether a client takes gzip, and nothing asks for its content to be left as it is.
#[must_use]
pub fn takes_gzip(fields: &[Field<'_>]) -> bool {
    let accepted = fields.iter().filter(|field| field.is("accept-encoding"));
    let (mut gzip, mut identity, mut any) = (None, None, None);
    for member in accepted.flat_map(|field| members(field.value)) {
        let (coding, weight) = weighted(member);
        let known = if coding.eq_ignore_ascii_case(b"gzip") || coding.eq_ignore_ascii_case(b"x-gzip") {
            &mut gzip
        } else if coding.eq_ignore_ascii_case(b"identity") {
            &mut identity
        } else if coding == b"*" {
            &mut any
        } else {
            continue;
        };
        // Who says it twice gets the less of both.
        *known = Some(known.map_or(weight, |before: u16| before.min(weight)));
    }
    // RFC 9110, section 12.5.3: "*" is for what is not listed; what has a weight of 0 is "not acceptable", and of what is the one with
    // the highest is preferred.
    let gzip = gzip.or(any).unwrap_or(0);
    gzip > 0 && gzip >= identity.unwrap_or(0) && !says_no_transform(fields)
}

/// A coding with its weight in thousandths; 0 for one that is none.
fn weighted(member: &[u8]) -> (&[u8], u16) {
    let mut parts = member.split(|byte| *byte == b';').map(trim);
    let coding = parts.next().unwrap_or_default();
    let weight = match (parts.next(), parts.next()) {
        (None, _) => 1000,
        (Some([b'q' | b'Q', b'=', weight @ ..]), None) => thousandths(weight).unwrap_or(0),
        _ => 0,
    };
    (coding, weight)
}

/// RFC 9110, section 12.4.2: `qvalue = ( "0" [ "." 0*3DIGIT ] ) / ( "1" [ "." 0*3("0") ] )`.
fn thousandths(weight: &[u8]) -> Option<u16> {
    let (whole, digits) = match weight {
        [whole @ (b'0' | b'1')] => (whole, &[][..]),
        [whole @ (b'0' | b'1'), b'.', digits @ ..] if digits.len() <= 3 => (whole, digits),
        _ => return None,
    };
    let mut sum = u16::from(whole - b'0') * 1000;
    for (digit, unit) in digits.iter().zip([100, 10, 1]) {
        sum += u16::from(char::from(*digit).to_digit(10).and_then(|digit| u8::try_from(digit).ok())?) * unit;
    }
    (sum <= 1000).then_some(sum)
}

/// RFC 9111, section 5.2: with `no-transform` "any intermediary (whether or not it implements a cache) MUST NOT transform the content".
fn says_no_transform(fields: &[Field<'_>]) -> bool {
    let controls = fields.iter().filter(|field| field.is("cache-control"));
    controls.flat_map(|field| members(field.value)).any(|member| member.eq_ignore_ascii_case(b"no-transform"))
}

/// What says of some bytes what they are: it would be wrong of other ones.
const DIGESTS: [&str; 4] = ["content-digest", "repr-digest", "digest", "content-md5"];

impl Coding {
    /// For an answer of a target, as far as `kinds` says which are compressed, to a client that `takes` it. `changes` are those of service
    /// and rule.
    #[must_use]
    pub fn of(
        answer: &ResponseHead<'_>,
        kinds: &Compressible,
        changes: [&HeaderChanges; 2],
        takes: bool,
    ) -> Self {
        let has = |name: &str| answer.fields.iter().any(|field| field.is(name));
        let given = |name: &str| given(changes, name).next().is_some();
        // A part of something, or nothing.
        let partial = answer.status < 200 || matches!(answer.status, 204 | 205 | 206 | 304);
        let encoded = has("content-encoding") || given("content-encoding");
        let kept = says_no_transform(&answer.fields)
            || self::given(changes, "cache-control").any(|value| value.contains("no-transform"))
            || DIGESTS.iter().any(|name| has(name) || given(name));
        let mut types = answer.fields.iter().filter(|field| field.is("content-type"));
        let fits = types.next().is_some_and(|field| kinds.has_type(field.value)) && types.next().is_none();
        let length = match answer.body {
            ResponseBody::Length(length) => Some(length),
            _ => answer.length,
        };
        let short = length.is_some_and(|length| length == 0 || length < kinds.bytes_min);
        if partial || encoded || kept || !fits || short {
            return Self::AsSent;
        }
        if takes && answer.body != ResponseBody::None { Self::Gzip } else { Self::Varying }
    }

    /// The fields that say so, beside those that the answer has.
    #[must_use]
    pub fn fields(
        self,
        answer: &ResponseHead<'_>,
        changes: [&HeaderChanges; 2],
    ) -> Vec<(&'static str, String)> {
        let mut fields = Vec::new();
        if self != Self::AsSent && !varies(answer, changes) {
            fields.push(("Vary", "Accept-Encoding".to_owned()));
        }
        if self == Self::Gzip {
            fields.push(("Content-Encoding", "gzip".to_owned()));
        }
        fields
    }
}

/// The values that service and rule give a field.
fn given<'c>(changes: [&'c HeaderChanges; 2], name: &'c str) -> impl Iterator<Item = &'c str> {
    let all = changes.into_iter().flat_map(|changes| changes.set.iter().chain(&changes.add));
    all.filter(move |(its, _)| its.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
}

/// Whether the client hears from elsewhere that the answer depends on what codings it takes.
fn varies(answer: &ResponseHead<'_>, changes: [&HeaderChanges; 2]) -> bool {
    let kept = !replaces(changes, b"vary");
    let own = answer.fields.iter().filter(|field| kept && field.is("vary")).map(|field| field.value);
    let mut names = own.chain(given(changes, "vary").map(str::as_bytes)).flat_map(members);
    names.any(|name| name == b"*" || name.eq_ignore_ascii_case(b"accept-encoding"))
}

/// The `ETag` of an answer that is compressed, from that of one which is not: RFC 9110, section 8.8.1: a strong one is for content that is
/// the same byte by byte.
#[must_use]
pub fn weak_tag(answer: &ResponseHead<'_>) -> Vec<u8> {
    let tag = answer.fields.iter().find(|field| field.is("etag")).map_or(&[][..], |field| field.value);
    if tag.starts_with(b"W/") { tag.to_vec() } else { [&b"W/"[..], tag].concat() }
}

/// The head of an answer that is compressed, with this for its `ETag`. Its length is not known before its end, and parts of it cannot be asked
/// for by their places.
#[must_use]
pub fn compressed<'h>(answer: &ResponseHead<'h>, tag: &'h [u8]) -> ResponseHead<'h> {
    let kept = answer.fields.iter().filter(|field| !field.is("accept-ranges"));
    let fields = kept.map(|field| if field.is("etag") { Field { value: tag, ..*field } } else { *field });
    ResponseHead { fields: fields.collect(), length: None, ..answer.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::framing::{Version, parse_response};
    use crate::http::pass_on::{Afterwards, Ending, response};

    static NONE: HeaderChanges = HeaderChanges { remove: Vec::new(), set: Vec::new(), add: Vec::new() };

    fn accepts(value: &str) -> bool {
        takes_gzip(&[Field { name: b"Accept-Encoding", value: value.as_bytes() }])
    }

    /// The examples of RFC 9110, section 12.5.3, and what is near to them.
    #[test]
    fn a_client_says_what_it_takes() {
        for (value, expected) in [
            ("compress, gzip", true),
            ("", false),
            ("*", true),
            ("compress;q=0.5, gzip;q=1.0", true),
            ("gzip;q=1.0, identity; q=0.5, *;q=0", true),
            ("gzip", true),
            ("GZip", true),
            ("x-gzip", true),
            ("br, deflate", false),
            ("gzip;q=0", false),
            ("gzip; q=0.000", false),
            ("gzip;Q=0.001", true),
            ("*;q=0", false),
            ("*;q=0.5, gzip;q=0", false),
            ("gzip;q=0.5, identity", false),
            ("identity;q=0.5, gzip;q=0.5", true),
            ("gzip;q=1.001", false),
            ("gzip;q=2", false),
            ("gzip;q=0.1234", false),
            ("gzip;q=", false),
            ("gzip;q=1;a=b", false),
            ("gzip;a=b", false),
            ("gzip, gzip;q=0", false),
            ("gzipped", false),
        ] {
            assert_eq!(accepts(value), expected, "{value}");
        }
        assert!(!takes_gzip(&[]), "who says nothing gets what there is");
        let field = |name: &'static str, value: &'static str| Field {
            name: name.as_bytes(),
            value: value.as_bytes(),
        };
        assert!(takes_gzip(&[field("accept-encoding", "br"), field("accept-encoding", "gzip")]));
        let refused = [field("accept-encoding", "gzip"), field("Cache-Control", "max-age=0, No-Transform")];
        assert!(!takes_gzip(&refused));
    }

    fn kinds(bytes_min: u64) -> Compressible {
        Compressible { types: vec!["text/html".to_owned()], bytes_min }
    }

    fn head(text: &str, to_head: bool) -> ResponseHead<'_> {
        parse_response(text.as_bytes(), to_head).unwrap()
    }

    fn coding(status: u16, fields: &str) -> Coding {
        let text = format!("HTTP/1.1 {status} x\r\n{fields}\r\n");
        Coding::of(&head(&text, false), &kinds(100), [&NONE, &NONE], true)
    }

    #[test]
    fn only_whole_answers_of_the_right_kind_and_size_are_compressed() {
        let html = "Content-Type: text/html; charset=utf-8\r\n";
        for (status, fields, expected) in [
            (200, html.to_owned(), Coding::Gzip),
            (404, format!("{html}Content-Length: 100\r\n"), Coding::Gzip),
            (200, format!("{html}Transfer-Encoding: chunked\r\n"), Coding::Gzip),
            (200, format!("{html}Content-Length: 99\r\n"), Coding::AsSent),
            (200, String::new(), Coding::AsSent),
            (200, "Content-Type: image/png\r\n".to_owned(), Coding::AsSent),
            (200, format!("{html}Content-Type: text/html\r\n"), Coding::AsSent),
            (
                206,
                format!("{html}Content-Range: bytes 0-999/5000\r\nContent-Length: 1000\r\n"),
                Coding::AsSent,
            ),
            (204, html.to_owned(), Coding::AsSent),
            (304, html.to_owned(), Coding::AsSent),
            (200, format!("{html}Content-Encoding: br\r\n"), Coding::AsSent),
            (200, format!("{html}Content-Encoding: identity\r\n"), Coding::AsSent),
            (200, format!("{html}Cache-Control: public, no-transform\r\n"), Coding::AsSent),
            (200, format!("{html}Content-Digest: sha-256=:AA==:\r\n"), Coding::AsSent),
            (200, format!("{html}Content-MD5: AA==\r\n"), Coding::AsSent),
        ] {
            assert_eq!(coding(status, &fields), expected, "{status} {fields}");
        }
        // Nothing is never something.
        let empty = format!("HTTP/1.1 200 x\r\n{html}Content-Length: 0\r\n\r\n");
        assert_eq!(Coding::of(&head(&empty, false), &kinds(0), [&NONE, &NONE], true), Coding::AsSent);
    }

    #[test]
    fn who_gets_it_as_it_was_sent_is_told_that_others_may_not() {
        let text = "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 500\r\n\r\n";
        let of = |to_head, takes| Coding::of(&head(text, to_head), &kinds(100), [&NONE, &NONE], takes);
        assert_eq!((of(false, true), of(false, false)), (Coding::Gzip, Coding::Varying));
        assert_eq!(of(true, true), Coding::Varying, "a HEAD's answer has no content");
        let fields = |coding: Coding, vary: &str| {
            let text = format!("HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n{vary}\r\n");
            coding.fields(&head(&text, false), [&NONE, &NONE])
        };
        let vary = ("Vary", "Accept-Encoding".to_owned());
        let gzip = ("Content-Encoding", "gzip".to_owned());
        assert!(fields(Coding::AsSent, "").is_empty());
        assert_eq!(fields(Coding::Varying, "Vary: Origin\r\n"), std::slice::from_ref(&vary));
        assert_eq!(fields(Coding::Gzip, ""), [vary, gzip.clone()]);
        assert_eq!(fields(Coding::Gzip, "Vary: Origin, accept-encoding\r\n"), std::slice::from_ref(&gzip));
        assert_eq!(fields(Coding::Gzip, "Vary: *\r\n"), [gzip]);
    }

    #[test]
    fn what_service_and_rule_give_an_answer_counts_too() {
        let text = "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nVary: Accept-Encoding\r\n\r\n";
        let with = |name: &str, value: &str| HeaderChanges {
            set: vec![(name.to_owned(), value.to_owned())],
            ..HeaderChanges::default()
        };
        let of = |changes: &HeaderChanges| Coding::of(&head(text, false), &kinds(0), [&NONE, changes], true);
        assert_eq!(of(&with("content-encoding", "br")), Coding::AsSent);
        assert_eq!(of(&with("Cache-Control", "no-transform")), Coding::AsSent);
        assert_eq!(of(&with("Cache-Control", "no-store")), Coding::Gzip);
        // The target's own word is taken away, so it is said anew.
        let vary = with("Vary", "Origin");
        let fields = Coding::Varying.fields(&head(text, false), [&vary, &NONE]);
        assert_eq!(fields, [("Vary", "Accept-Encoding".to_owned())]);
        let vary = with("Vary", "Origin, Accept-Encoding");
        assert!(Coding::Varying.fields(&head(text, false), [&vary, &NONE]).is_empty());
    }

    #[test]
    fn the_head_says_nothing_of_what_it_was_before() {
        let text = "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 500\r\nETag: \"a\"\r\nAccept-Ranges: bytes\r\n\r\n";
        let answer = head(text, false);
        let tag = weak_tag(&answer);
        let pressed = compressed(&answer, &tag);
        let mut out = Vec::new();
        let added = Coding::Gzip.fields(&answer, [&NONE, &NONE]);
        let ending = Ending::of(ResponseBody::Chunked, Version::Http11);
        response(&pressed, ending, Afterwards::Kept, [&NONE, &NONE], &added, &mut out);
        let expected = "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nETag: W/\"a\"\r\nVary: Accept-Encoding\r\n\
                        Content-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n";
        assert_eq!(String::from_utf8(out).unwrap(), expected);
        let weak = head("HTTP/1.1 200 OK\r\nETag: W/\"b\"\r\n\r\n", false);
        assert_eq!(weak_tag(&weak), b"W/\"b\"");
    }
}

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
pub const DIGESTS: [&str; 4] = ["content-digest", "repr-digest", "digest", "content-md5"];

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
        let partial = answer.status < 200 || matches!(answer.status, 204..=206);
        // RFC 9110, section 15.4.5: 304 has the Vary that "would have been sent in a 200 (OK) response to the same request". It mostly does
        // not say the type of that, nor its length.
        let revalidates = answer.status == 304;
        let encoded = has("content-encoding") || given("content-encoding");
        let kept = says_no_transform(&answer.fields)
            || self::given(changes, "cache-control").any(|value| value.contains("no-transform"))
            || DIGESTS.iter().any(|name| has(name) || given(name));
        let mut types = answer.fields.iter().filter(|field| field.is("content-type"));
        let fits = match (types.next(), types.next()) {
            (Some(only), None) => kinds.has_type(only.value),
            (None, _) => revalidates,
            (Some(_), Some(_)) => false,
        };
        let length = match answer.body {
            ResponseBody::Length(length) => Some(length),
            _ => answer.length.filter(|length| *length > 0 || !revalidates),
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

/// Whether an answer of 304 is about what a client has got compressed: of what it has, as its `If-None-Match` says, the tag is this answer's
/// made weak, and is not this one itself. What it has is not to be taken for what is the same byte by byte.
#[must_use]
pub fn revalidates_compressed(answer: &ResponseHead<'_>, if_none_match: &[u8]) -> bool {
    let tag = answer.fields.iter().find(|field| field.is("etag")).map_or(&[][..], |field| field.value);
    let has = |weak: bool| tags(if_none_match).any(|its| its == (weak, tag));
    answer.status == 304 && has(true) && !has(false)
}

/// The entity tags of a list with their quotes, and whether each is weak. RFC 9110, section 8.8.3: there may be commas in them.
fn tags(list: &[u8]) -> impl Iterator<Item = (bool, &[u8])> {
    let mut rest = list;
    std::iter::from_fn(move || {
        let open = rest.iter().position(|byte| *byte == b'"')?;
        let (before, tag) = rest.split_at(open);
        let end = tag.iter().skip(1).position(|byte| *byte == b'"')? + 2;
        let (tag, after) = tag.split_at(end);
        rest = after;
        Some((before.ends_with(b"W/"), tag))
    })
}

/// The value of an `If-Match` with strong tags for its weak ones; nothing if it has none of these.
///
/// RFC 9110, section 13.1.1: a weak one never matches, so whoever has got something compressed could change it no more. The tag that was made
/// weak for him says what there is to say: if the target has a weak one itself, that does not match either.
#[must_use]
pub fn strong_tags(value: &[u8]) -> Option<Vec<u8>> {
    const WEAK: &[u8] = b"W/\"";
    let mut strong = Vec::with_capacity(value.len());
    let mut quoted = false;
    for (at, byte) in value.iter().enumerate() {
        let marks = value[at..].starts_with(WEAK) || value[at.saturating_sub(1)..].starts_with(WEAK);
        if quoted || !marks {
            strong.push(*byte);
        }
        quoted ^= *byte == b'"';
    }
    (strong.len() < value.len()).then_some(strong)
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
            (304, html.to_owned(), Coding::Varying),
            (304, String::new(), Coding::Varying),
            (304, "Content-Length: 0\r\n".to_owned(), Coding::Varying),
            (304, "Content-Length: 99\r\n".to_owned(), Coding::AsSent),
            (304, "Content-Type: image/png\r\n".to_owned(), Coding::AsSent),
            (304, "Cache-Control: no-transform\r\n".to_owned(), Coding::AsSent),
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
    fn what_a_client_has_compressed_stays_weak_when_it_is_confirmed() {
        let of = |status: u16, etag: &str, asked: &str| {
            let text = format!("HTTP/1.1 {status} x\r\n{etag}\r\n");
            revalidates_compressed(&head(&text, false), asked.as_bytes())
        };
        let etag = "ETag: \"a,b\"\r\n";
        for (asked, expected) in [
            ("W/\"a,b\"", true),
            ("\"x\", W/\"a,b\"", true),
            ("\"W/\",W/\"a,b\"", true),
            ("\"a,b\"", false),
            ("W/\"a,b\", \"a,b\"", false),
            ("W/\"a\"", false),
            ("*", false),
            ("", false),
            ("W/\"a,b", false),
        ] {
            assert_eq!(of(304, etag, asked), expected, "{asked}");
        }
        assert!(!of(200, etag, "W/\"a,b\""));
        assert!(!of(304, "ETag: W/\"a,b\"\r\n", "W/\"a,b\""), "it is weak already");
        assert!(!of(304, "", "W/\"\""));
    }

    #[test]
    fn tags_that_were_made_weak_are_strong_for_the_target() {
        let strong = |value: &str| strong_tags(value.as_bytes()).map(|tags| String::from_utf8(tags).unwrap());
        for (value, expected) in [
            ("W/\"a\"", Some("\"a\"")),
            ("\"x\", W/\"a,W/\", W/\"\"", Some("\"x\", \"a,W/\", \"\"")),
            ("\"a\"", None),
            ("\"W/\"", None),
            ("*", None),
            ("W/", None),
            ("", None),
        ] {
            assert_eq!(strong(value).as_deref(), expected, "{value}");
        }
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

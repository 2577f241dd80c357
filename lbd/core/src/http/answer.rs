//! The answers that no target gives.

use std::borrow::Cow;

use common::config::HeaderChanges;
use common::time::UnixTime;

use super::pass_on::{Afterwards, Fields, change, field, number, replaces};

/// An answer of Tandem's own.
#[derive(Clone, Copy, Debug)]
pub struct Answer<'a> {
    /// The status.
    pub status: u16,
    /// The body's type, if there is a body.
    pub content_type: &'a str,
    /// The body.
    pub body: &'a str,
    /// Further fields.
    pub fields: &'a [(&'static str, String)],
}

impl Answer<'static> {
    /// One that says its status and no more.
    #[must_use]
    pub const fn plain(status: u16) -> Self {
        Self { status, content_type: "text/plain; charset=utf-8", body: "", fields: &[] }
    }
}

impl<'a> Answer<'a> {
    /// Writes it for HTTP/1. A body is left out where none belongs: after `HEAD`, and with 204 and 304. One that says nothing but its
    /// status has that for its body, for people.
    pub fn write(
        &self,
        to_head: bool,
        afterwards: Afterwards,
        changes: [&HeaderChanges; 2],
        now: UnixTime,
        out: &mut Vec<u8>,
    ) {
        let body = self.content();
        out.extend_from_slice(format!("HTTP/1.1 {} {}\r\n", self.status, reason(self.status)).as_bytes());
        self.write_fields(&body, changes, now, out);
        match afterwards {
            Afterwards::Kept => {}
            Afterwards::KeptHttp10 => field(out, "Connection", b"keep-alive"),
            Afterwards::Closed => field(out, "Connection", b"close"),
        }
        out.extend_from_slice(b"\r\n");
        if self.has_content(to_head) {
            out.extend_from_slice(body.as_bytes());
        }
    }

    /// Whether a body belongs to it.
    #[must_use]
    pub const fn has_content(&self, to_head: bool) -> bool {
        !to_head && !matches!(self.status, 204 | 304)
    }

    /// Its body, wherever one belongs.
    #[must_use]
    pub fn content(&self) -> Cow<'a, str> {
        match self.body {
            "" if self.status >= 400 => Cow::Owned(format!("{} {}\n", self.status, reason(self.status))),
            body => Cow::Borrowed(body),
        }
    }

    /// Writes its fields, those for one connection left out.
    pub fn write_fields(
        &self,
        body: &str,
        changes: [&HeaderChanges; 2],
        now: UnixTime,
        out: &mut impl Fields,
    ) {
        let bodiless = matches!(self.status, 204 | 304);
        field(out, "Date", date(now).as_bytes());
        if !body.is_empty() && !bodiless && !replaces(changes, b"content-type") {
            field(out, "Content-Type", self.content_type.as_bytes());
        }
        for (name, value) in self.fields {
            field(out, name, value.as_bytes());
        }
        change(out, changes);
        if !bodiless {
            number(out, "Content-Length", body.len() as u64);
        }
    }
}

/// The words that RFC 9110 has for a status, as far as they are used here or likely to be configured.
#[must_use]
pub const fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        201 => "Created",
        202 => "Accepted",
        204 => "No Content",
        301 => "Moved Permanently",
        302 => "Found",
        303 => "See Other",
        304 => "Not Modified",
        307 => "Temporary Redirect",
        308 => "Permanent Redirect",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        410 => "Gone",
        413 => "Content Too Large",
        414 => "URI Too Long",
        417 => "Expectation Failed",
        421 => "Misdirected Request",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        508 => "Loop Detected",
        _ => match status / 100 {
            2 => "Success",
            3 => "Redirection",
            4 => "Client Error",
            _ => "Server Error",
        },
    }
}

/// RFC 9110, section 5.6.7: `Sun, 06 Nov 1994 08:49:37 GMT`.
#[must_use]
pub fn date(now: UnixTime) -> String {
    const DAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let seconds = now.as_millis() / 1000;
    let (days, of_day) = (seconds / 86_400, seconds % 86_400);
    // Years that begin with March have their odd day at the end; 1 March of the year 0 was 719,468 days before 1970.
    let shifted = days + 719_468;
    let (era, of_era) = (shifted / 146_097, shifted % 146_097);
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let (month, next) = if month < 10 { (month + 2, 0) } else { (month - 10, 1) };
    let name = |list: &[&'static str], index: u64| {
        list.get(usize::try_from(index).unwrap_or_default()).copied().unwrap_or_default()
    };
    format!(
        "{}, {day:02} {} {} {:02}:{:02}:{:02} GMT",
        name(&DAYS, days % 7),
        name(&MONTHS, month),
        era * 400 + year + next,
        of_day / 3600,
        of_day / 60 % 60,
        of_day % 60
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: HeaderChanges = HeaderChanges { remove: Vec::new(), set: Vec::new(), add: Vec::new() };

    /// From `date -u -d @N`.
    #[test]
    fn dates_are_those_of_the_calendar() {
        for (seconds, expected) in [
            (0, "Thu, 01 Jan 1970 00:00:00 GMT"),
            (784_111_777, "Sun, 06 Nov 1994 08:49:37 GMT"),
            (951_782_400, "Tue, 29 Feb 2000 00:00:00 GMT"),
            (951_868_799, "Tue, 29 Feb 2000 23:59:59 GMT"),
            (951_868_800, "Wed, 01 Mar 2000 00:00:00 GMT"),
            (1_704_067_199, "Sun, 31 Dec 2023 23:59:59 GMT"),
            (4_102_444_800, "Fri, 01 Jan 2100 00:00:00 GMT"),
        ] {
            assert_eq!(date(UnixTime::from_nanos(seconds * 1_000_000_000)), expected);
        }
    }

    fn written(answer: &Answer<'_>, to_head: bool, changes: &HeaderChanges) -> String {
        let mut out = Vec::new();
        answer.write(to_head, Afterwards::Closed, [&NONE, changes], UnixTime::from_nanos(0), &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn an_answer_has_a_body_where_one_belongs() {
        let head = "HTTP/1.1 503 Service Unavailable\r\nDate: Thu, 01 Jan 1970 00:00:00 GMT\r\n\
                    Content-Type: text/plain; charset=utf-8\r\nContent-Length: 24\r\nConnection: close\r\n\r\n";
        let plain = Answer::plain(503);
        assert_eq!(written(&plain, false, &NONE), format!("{head}503 Service Unavailable\n"));
        assert_eq!(written(&plain, true, &NONE), head);
        let none = written(&Answer::plain(204), false, &NONE);
        assert!(!none.contains("Content-") && none.ends_with("close\r\n\r\n"), "{none}");
        let redirect = Answer { fields: &[("Location", "/x".to_owned())], ..Answer::plain(308) };
        assert!(written(&redirect, false, &NONE).contains("\r\nLocation: /x\r\nContent-Length: 0\r\n"));
        let changes =
            HeaderChanges { set: vec![("Content-Type".to_owned(), "text/html".to_owned())], ..NONE };
        let changed = written(&plain, false, &changes);
        assert_eq!(changed.matches("Content-Type").count(), 1);
        assert!(changed.contains("Content-Type: text/html\r\n"));
    }
}

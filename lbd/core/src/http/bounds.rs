//! How large a request may be, and by what it is counted.

use common::config::{Http, is_same_field};

use super::framing::{Fault, Field, RequestBody, RequestHead};

/// Looks whether a request is one that is too large as far as its head says.
///
/// # Errors
///
/// [`Fault::LineTooLong`] if path and query together are longer than `limits.max_uri_bytes`, [`Fault::BodyTooLong`] if the body's length is
/// more than `limits.max_body_bytes`.
pub fn check(head: &RequestHead<'_>, http: &Http) -> Result<(), Fault> {
    let uri = head.path.len() + head.query.as_ref().map_or(0, |query| query.len() + 1);
    if http.uri_bytes_max.is_some_and(|max| uri > max) {
        return Err(Fault::LineTooLong);
    }
    match (head.body, http.body_bytes_max) {
        (RequestBody::Length(length), Some(max)) if length > max => Err(Fault::BodyTooLong),
        _ => Ok(()),
    }
}

/// The value of the field of this name that a request is counted by, if it has one.
///
/// # Errors
///
/// [`Fault::RateField`] if there are several, under whatever names programs take for the same: whoever counted one of them, the target might
/// heed another.
pub fn counted_by<'f>(fields: &[Field<'f>], name: &str) -> Result<Option<&'f [u8]>, Fault> {
    let mut all = fields.iter().filter(|field| is_same_field(field.name, name.as_bytes()));
    let first = all.next().map(|field| field.value);
    if all.next().is_some() { Err(Fault::RateField) } else { Ok(first) }
}

/// What may still come of a body whose length is not known before.
#[derive(Clone, Copy, Debug)]
pub struct Quota {
    left: u64,
}

impl Quota {
    /// For a body of so many bytes at most; of any number without one.
    #[must_use]
    pub const fn new(max: Option<u64>) -> Self {
        match max {
            Some(left) => Self { left },
            None => Self { left: u64::MAX },
        }
    }

    /// So many more have come.
    ///
    /// # Errors
    ///
    /// [`Fault::BodyTooLong`] if that is too much.
    pub fn take(&mut self, bytes: usize) -> Result<(), Fault> {
        self.left = self.left.checked_sub(bytes as u64).ok_or(Fault::BodyTooLong)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::http::framing::parse_request;

    /// Of a request with this first line, and a body of this length if one is given.
    fn verdict(line: &str, length: &str, limits: &str) -> Result<(), Fault> {
        let text = format!(
            "[[service]]\nname = \"s\"\nmode = \"http\"\nlisten = [\"127.0.0.1:80\"]\nforward = \"g\"\nlimits = {{ {limits} }}\n\
             [[target_group]]\nname = \"g\"\ntargets = [{{ address = \"10.0.1.1:80\" }}]\n"
        );
        let config = common::config::parse(&text, Path::new("pair.toml")).unwrap();
        let length = if length.is_empty() { String::new() } else { format!("Content-Length: {length}\r\n") };
        let head = format!("{line} HTTP/1.1\r\nHost: a\r\n{length}\r\n");
        check(&parse_request(head.as_bytes()).unwrap(), config.services[0].http.as_ref().unwrap())
    }

    #[test]
    fn what_is_too_large_is_refused() {
        let uri = "max_uri_bytes = \"128B\"";
        let of_length = |path: usize| format!("GET /{}?q", "a".repeat(path - 3));
        assert_eq!(verdict(&of_length(128), "", uri), Ok(()));
        assert_eq!(verdict(&of_length(129), "", uri), Err(Fault::LineTooLong));
        assert_eq!(verdict(&of_length(8000), "", ""), Ok(()));
        let body = "max_body_bytes = \"5B\"";
        assert_eq!(verdict("POST /", "5", body), Ok(()));
        assert_eq!(verdict("POST /", "6", body), Err(Fault::BodyTooLong));
        assert_eq!(verdict("POST /", "999999999999999", ""), Ok(()));
        assert_eq!(verdict("GET /", "", "max_body_bytes = \"0B\""), Ok(()));
    }

    #[test]
    fn a_request_is_counted_by_one_value() {
        let counted = |fields: &[(&'static str, &'static str)]| {
            let field = |(name, value): &(&'static str, &'static str)| Field {
                name: name.as_bytes(),
                value: value.as_bytes(),
            };
            let fields: Vec<Field<'_>> = fields.iter().map(field).collect();
            counted_by(&fields, "x-api-key")
        };
        assert_eq!(counted(&[("x-api", "a")]), Ok(None));
        for name in ["X-Api-Key", "x_api_key", "X.Api-Key"] {
            assert_eq!(counted(&[("x-api", "b"), (name, "a")]), Ok(Some(&b"a"[..])));
            assert_eq!(counted(&[("x-api-key", "a"), (name, "a")]), Err(Fault::RateField));
        }
    }

    #[test]
    fn a_quota_is_used_up() {
        let mut quota = Quota::new(Some(10));
        assert_eq!((quota.take(4), quota.take(6), quota.take(0)), (Ok(()), Ok(()), Ok(())));
        assert_eq!(quota.take(1), Err(Fault::BodyTooLong));
        let mut quota = Quota::new(None);
        assert_eq!((quota.take(usize::MAX / 2), quota.take(1)), (Ok(()), Ok(())));
    }
}

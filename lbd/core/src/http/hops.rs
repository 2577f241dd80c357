//! How many proxies more a request may go through (RFC 9110, section 7.6.2).

use super::framing::{Fault, RequestHead};

/// The field that says so, in lower case.
pub const MAX_FORWARDS: &str = "max-forwards";

/// How often a request may still be passed on: at 0, whoever gets it answers it. Nothing if it does not say so, or its method is another one
/// than those for which that counts: "A recipient MAY ignore a Max-Forwards header field received with any other request methods."
///
/// # Errors
///
/// [`Fault::MaxForwards`] if it says so twice, or what it says is no number.
pub fn left(head: &RequestHead<'_>) -> Result<Option<u64>, Fault> {
    if !matches!(head.method, "OPTIONS" | "TRACE") {
        return Ok(None);
    }
    let mut values = head.values(MAX_FORWARDS);
    let Some(value) = values.next() else { return Ok(None) };
    if value.is_empty() || values.next().is_some() {
        return Err(Fault::MaxForwards);
    }
    value.iter().try_fold(0, add_digit).map(Some).ok_or(Fault::MaxForwards)
}

/// What is more than can be said here is as much as can be: the number goes on as "the lesser of" itself, less one, and "the recipient's
/// maximum supported value".
fn add_digit(number: u64, digit: &u8) -> Option<u64> {
    digit.is_ascii_digit().then(|| number.saturating_mul(10).saturating_add(u64::from(digit - b'0')))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::framing::parse_request;

    fn of(method: &str, fields: &str) -> Result<Option<u64>, Fault> {
        let text = format!("{method} / HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
        left(&parse_request(text.as_bytes()).unwrap())
    }

    #[test]
    fn the_number_is_read_where_it_counts() {
        assert_eq!(of("OPTIONS", ""), Ok(None));
        assert_eq!(of("OPTIONS", "Max-Forwards: 0\r\n"), Ok(Some(0)));
        assert_eq!(of("TRACE", "max-forwards:  012 \r\n"), Ok(Some(12)));
        assert_eq!(of("OPTIONS", &format!("Max-Forwards: {}\r\n", "9".repeat(40))), Ok(Some(u64::MAX)));
        for method in ["GET", "POST", "options"] {
            assert_eq!(of(method, "Max-Forwards: x\r\n"), Ok(None), "{method}");
        }
    }

    #[test]
    fn what_is_no_number_is_refused() {
        for fields in ["-1", "+1", "1.0", "0x1", "1 1", "1, 1", "", "one"] {
            let fields = format!("Max-Forwards: {fields}\r\n");
            assert_eq!(of("OPTIONS", &fields), Err(Fault::MaxForwards), "{fields}");
        }
        assert_eq!(of("TRACE", "Max-Forwards: 1\r\nMax-Forwards: 1\r\n"), Err(Fault::MaxForwards));
    }
}

//! Cookies, as far as a proxy has to know them.

use super::framing::{Field, trim};

/// The pairs of a `Cookie` field. RFC 6265, section 4.2.1: `cookie-string = cookie-pair *( ";" SP cookie-pair )`; as servers do, white
/// space is not insisted on, and what is no pair is left alone.
fn pairs(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|byte| *byte == b';').map(trim)
}

/// A pair's name and value.
fn split(pair: &[u8]) -> Option<(&[u8], &[u8])> {
    let equals = pair.iter().position(|byte| *byte == b'=')?;
    Some((trim(&pair[..equals]), trim(&pair[equals + 1..])))
}

/// The values that a request has for a cookie, in their order. Names of cookies differ by case.
pub fn values<'f>(fields: &'f [Field<'f>], name: &'f str) -> impl Iterator<Item = &'f [u8]> {
    let all = fields.iter().filter(|field| field.is("cookie")).flat_map(|field| pairs(field.value));
    all.filter_map(split).filter(move |(its, _)| *its == name.as_bytes()).map(|(_, value)| value)
}

/// A `Cookie` field without the cookies of these names: nothing if it has none of them, an empty text if it has no others.
#[must_use]
pub fn without(value: &[u8], hidden: &[String]) -> Option<Vec<u8>> {
    let is_hidden = |pair: &&[u8]| {
        let name = split(pair).map_or(*pair, |(name, _)| name);
        hidden.iter().any(|hidden| hidden.as_bytes() == name)
    };
    if hidden.is_empty() || !pairs(value).any(|pair| is_hidden(&pair)) {
        return None;
    }
    let kept: Vec<&[u8]> = pairs(value).filter(|pair| !pair.is_empty() && !is_hidden(pair)).collect();
    Some(kept.join(&b"; "[..]))
}

/// Name and value that a `Set-Cookie` field sets (RFC 6265, section 5.2).
#[must_use]
pub fn set(value: &[u8]) -> Option<(&[u8], &[u8])> {
    let (name, value) = split(pairs(value).next()?)?;
    (!name.is_empty()).then_some((name, value))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn found<'v>(text: &'v str, name: &'v str) -> Vec<String> {
        let fields = [
            Field { name: b"X", value: b"a=no" },
            Field { name: b"Cookie", value: text.as_bytes() },
            Field { name: b"cookie", value: b"b=last" },
        ];
        values(&fields, name).map(|value| String::from_utf8_lossy(value).into_owned()).collect()
    }

    #[test]
    fn cookies_are_found_by_their_names() {
        assert_eq!(found("a=1; b=2; a=3", "a"), ["1", "3"]);
        assert_eq!(found("a=1;b = 2 ;; c", "b"), ["2", "last"]);
        assert_eq!(found("a=x=y", "a"), ["x=y"]);
        assert_eq!(found("aa=1; A=2; =a; a", "a"), [""; 0]);
        assert_eq!(found("a=", "a"), [""]);
    }

    #[test]
    fn what_is_hidden_is_taken_out_and_nothing_else() {
        let hide = |text: &str| without(text.as_bytes(), &["lb".to_owned(), "lb2".to_owned()]);
        let hidden = |text: &str| hide(text).map(|rest| String::from_utf8(rest).unwrap());
        assert_eq!(hidden("a=1; b=2"), None);
        assert_eq!(hidden("lbx=1; xlb=2; LB=3"), None);
        assert_eq!(hidden("lb=1").as_deref(), Some(""));
        assert_eq!(hidden("a=1; lb=1; b=\"2\"").as_deref(), Some("a=1; b=\"2\""));
        assert_eq!(hidden("lb=1;lb2=2;a=1;lb=3;").as_deref(), Some("a=1"));
        assert_eq!(hidden("lb; a=1").as_deref(), Some("a=1"), "without a value, too");
        assert_eq!(without(b"lb=1", &[]), None);
    }

    #[test]
    fn what_a_target_sets_is_the_first_pair() {
        assert_eq!(set(b"SID=a=b; Path=/; x=y"), Some((&b"SID"[..], &b"a=b"[..])));
        assert_eq!(set(b" SID = 1 "), Some((&b"SID"[..], &b"1"[..])));
        assert_eq!((set(b"SID"), set(b"=1"), set(b"")), (None, None, None));
    }

    proptest! {
        /// Whatever a client sends: what is hidden is not found in what is passed on, and all other cookies are, in their order.
        #[test]
        fn nothing_hidden_is_left(text in "([ab=; \\t\"]|lb|lb=1|; ){0,12}") {
            let hidden = ["lb".to_owned()];
            let names = |text: &[u8]| -> Vec<Vec<u8>> {
                pairs(text).filter(|pair| !pair.is_empty()).map(<[u8]>::to_vec).collect()
            };
            let is_hidden = |pair: &Vec<u8>| split(pair).map_or(&pair[..], |(name, _)| name) == b"lb";
            let before = names(text.as_bytes());
            let after = without(text.as_bytes(), &hidden);
            prop_assert_eq!(after.is_some(), before.iter().any(is_hidden));
            let after = after.unwrap_or_else(|| text.as_bytes().to_vec());
            prop_assert!(!names(&after).iter().any(is_hidden));
            let expected: Vec<Vec<u8>> = before.into_iter().filter(|pair| !is_hidden(pair)).collect();
            prop_assert_eq!(names(&after), expected);
        }
    }
}

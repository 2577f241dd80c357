//! etcd's v3 range API over its JSON gateway: `POST /v3/kv/range`, keys and values in base64.
//!
//! Each key under the prefix is a target: its value is an address such as `10.0.0.1:80`, or a JSON object with the keys of
//! `targets` in a target group. `Addr` is understood like `address`: gRPC's naming writes it so.

use common::config::{Target, is_target_id, is_zone};
use data_encoding::BASE64;
use serde::Deserialize;

use super::{Answer, Entries, Failure, WEIGHT_MAX, count, plain};

/// Where to send the question.
pub const PATH: &str = "/v3/kv/range";

/// The question for every key that starts with `prefix`, as JSON.
#[must_use]
pub fn request(prefix: &str, max_targets: u32) -> String {
    let (key, end) = (BASE64.encode(prefix.as_bytes()), BASE64.encode(&range_end(prefix.as_bytes())));
    format!(r#"{{"key":"{key}","range_end":"{end}","limit":{max_targets}}}"#)
}

/// The first key behind those with this prefix, as etcd's clients compute it; a single zero byte stands for the end of all.
fn range_end(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            return end;
        }
    }
    vec![0]
}

/// The answer. Numbers of 64 bits are strings in JSON made from protocol buffers; fields with zero are left out.
#[derive(Deserialize)]
struct Range {
    #[serde(default)]
    kvs: Vec<KeyValue>,
    #[serde(default)]
    count: String,
    /// In every answer, so that any other JSON is not taken for one without keys.
    #[serde(rename = "header")]
    _header: serde::de::IgnoredAny,
}

#[derive(Deserialize)]
struct KeyValue {
    key: String,
    #[serde(default)]
    value: String,
}

/// A value in JSON.
#[derive(Deserialize)]
struct Value {
    #[serde(alias = "Addr")]
    address: String,
    id: Option<String>,
    weight: Option<u16>,
    #[serde(default)]
    backup: bool,
    zone: Option<String>,
    max_connections: Option<u32>,
}

/// The targets that an answer's body lists. A target is named by its `id`, else by its key behind the prefix, else by its
/// address. An entry that cannot be understood is left out and counted: each belongs to somebody else.
///
/// # Errors
///
/// When it is no answer of etcd, or has no usable entry.
pub fn parse(body: &[u8], prefix: &str, max_targets: u32) -> Result<Answer, Failure> {
    let range: Range = serde_json::from_slice(body)
        .map_err(|error| Failure::invalid(format!("etcd's answer is not a range of keys: {error}")))?;
    let mut entries = Entries::up_to(max_targets);
    let listed = count(range.kvs.len());
    entries.over_limit = range.count.parse::<u64>().unwrap_or(0).saturating_sub(listed);
    for entry in &range.kvs {
        match target(entry, prefix) {
            Some(target) => entries.push(target),
            None => entries.unusable += 1,
        }
    }
    entries.into_answer(&format!("etcd has no target under {prefix:?}"))
}

fn target(entry: &KeyValue, prefix: &str) -> Option<Target> {
    let decoded = |text: &str| String::from_utf8(BASE64.decode(text.as_bytes()).ok()?).ok();
    let (key, value) = (decoded(&entry.key)?, decoded(&entry.value)?);
    let value = value.trim();
    let mut id = key.strip_prefix(prefix).map(str::to_owned);
    let mut target = if value.starts_with('{') {
        let value: Value = serde_json::from_str(value).ok()?;
        id = value.id.or(id);
        Target {
            weight: value.weight.unwrap_or(1),
            backup: value.backup,
            zone: value.zone,
            max_connections: value.max_connections,
            ..plain(value.address.parse().ok()?)
        }
    } else {
        plain(value.parse().ok()?)
    };
    if let Some(id) = id.filter(|id| is_target_id(id)) {
        target.id = id;
    }
    let usable = target.weight <= WEIGHT_MAX
        && target.max_connections != Some(0)
        && target.zone.as_deref().is_none_or(is_zone);
    usable.then_some(target)
}

#[cfg(test)]
mod tests {
    use super::super::FailureKind;
    use super::*;
    use proptest::prelude::*;

    fn range(entries: &[(&str, &str)], count: usize) -> String {
        let kvs: Vec<String> = entries
            .iter()
            .map(|(key, value)| {
                let (key, value) = (BASE64.encode(key.as_bytes()), BASE64.encode(value.as_bytes()));
                format!(r#"{{"key":"{key}","create_revision":"2","mod_revision":"2","version":"1","value":"{value}"}}"#)
            })
            .collect();
        format!(
            r#"{{"header":{{"cluster_id":"14841639068965178418","member_id":"10276657743932975437","revision":"3","raft_term":"2"}},"kvs":[{}],"count":"{count}"}}"#,
            kvs.join(",")
        )
    }

    #[test]
    fn the_question_is_that_of_the_documentation() {
        // etcd's page on its gRPC gateway asks for the keys from `foo` to `fop` like this.
        assert_eq!(request("foo", 7), r#"{"key":"Zm9v","range_end":"Zm9w","limit":7}"#);
        assert_eq!(range_end(b"a\xff\xff"), b"b");
        assert_eq!(range_end(b"\xff"), b"\0");
        assert_eq!(range_end(b""), b"\0");
    }

    #[test]
    fn the_answer_of_the_documentation_is_understood() {
        // From the same page; its value `bar` is no address.
        let body = r#"{"header":{"cluster_id":"12585971608760269493","member_id":"13847567121247652255","revision":"2","raft_term":"3"},"kvs":[{"key":"Zm9v","create_revision":"2","mod_revision":"2","version":"1","value":"YmFy"}],"count":"1"}"#;
        let failure = parse(body.as_bytes(), "fo", 10).unwrap_err();
        assert_eq!(failure, Failure::empty("etcd has no target under \"fo\" (1 entries cannot be used)"));
    }

    #[test]
    fn plain_and_json_values_are_targets() {
        let body = range(
            &[
                ("/shop/a", "10.0.0.1:80\n"),
                (
                    "/shop/b",
                    r#"{"address":"10.0.0.2:80","weight":3,"backup":true,"zone":"z1","max_connections":9}"#,
                ),
                ("/shop/c", r#"{"Op":0,"Addr":"10.0.0.3:80","Metadata":null}"#),
                ("/shop/d", r#"{"address":"10.0.0.4:80","id":"four"}"#),
                ("/shop/e/f", "[2001:db8::1]:80"),
            ],
            5,
        );
        let answer = parse(body.as_bytes(), "/shop/", 10).unwrap();
        let ids: Vec<&str> = answer.targets.iter().map(|target| target.id.as_str()).collect();
        assert_eq!(ids, ["a", "c", "four", "[2001:db8::1]:80", "b"]);
        let b = &answer.targets[4];
        assert_eq!(
            (b.weight, b.backup, b.zone.as_deref(), b.max_connections),
            (3, true, Some("z1"), Some(9))
        );
        assert_eq!((answer.unusable, answer.over_limit), (0, 0));
    }

    #[test]
    fn entries_that_make_no_sense_are_left_out() {
        let body = range(
            &[
                ("/shop/a", "10.0.0.1:80"),
                ("/shop/b", "shop.example:80"),
                ("/shop/c", r#"{"address":"10.0.0.2:80","weight":257}"#),
                ("/shop/d", r#"{"address":"10.0.0.2:80","zone":"a b"}"#),
                ("/shop/e", r#"{"address":"10.0.0.2:80""#),
                ("/shop/f", "0.0.0.0:80"),
                ("/shop/g", "10.0.0.1:80"),
                ("/shop/h", r#"{"address":"10.0.0.2:80","max_connections":0}"#),
            ],
            1008,
        );
        let answer = parse(body.as_bytes(), "/shop/", 10).unwrap();
        assert_eq!((answer.targets.len(), answer.unusable, answer.over_limit), (1, 7, 1000));
    }

    #[test]
    fn no_key_and_no_answer_are_failures() {
        for (body, kind) in [
            (r#"{"header":{"revision":"3"}}"#, FailureKind::Empty),
            ("{}", FailureKind::Invalid),
            (r#"{"error":"etcdserver: permission denied","code":7}"#, FailureKind::Invalid),
            ("", FailureKind::Invalid),
            ("[]", FailureKind::Invalid),
        ] {
            assert_eq!(parse(body.as_bytes(), "/", 10).unwrap_err().kind, kind, "{body}");
        }
    }

    proptest! {
        #[test]
        fn noise_is_refused_without_panic(body in proptest::collection::vec(any::<u8>(), 0..400)) {
            prop_assert!(parse(&body, "/", 5).is_err());
        }

        #[test]
        fn noise_in_values_is_left_out(values in proptest::collection::vec(".{0,40}", 0..20)) {
            let entries: Vec<(String, String)> =
                (0..).zip(values).map(|(n, value): (u32, _)| (format!("/s/{n}"), value)).collect();
            let entries: Vec<(&str, &str)> = entries.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
            let found = parse(range(&entries, entries.len()).as_bytes(), "/s/", 5);
            let all = u64::try_from(entries.len()).unwrap();
            match found {
                Ok(answer) => prop_assert!(answer.targets.len() as u64 + answer.unusable <= all),
                Err(failure) => prop_assert_eq!(failure.kind, FailureKind::Empty),
            }
        }
    }
}

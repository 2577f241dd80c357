//! Consul's health API: `GET /v1/health/service/NAME?passing=1`, which lists the instances whose checks all pass.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};

use common::config::is_target_id;
use serde::Deserialize;

use super::{Answer, Entries, Failure, plain, scaled};

/// The path and query to ask for.
#[must_use]
pub fn path(service: &str, tag: Option<&str>) -> String {
    let mut path = format!("/v1/health/service/{}?passing=1", escaped(service));
    if let Some(tag) = tag {
        path.push_str("&tag=");
        path.push_str(&escaped(tag));
    }
    path
}

/// The text with everything percent-encoded that RFC 3986 does not call unreserved.
fn escaped(text: &str) -> String {
    text.bytes().fold(String::with_capacity(text.len()), |mut escaped, byte| {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            escaped.push(char::from(byte));
        } else {
            // Writing into a String cannot fail.
            let written = write!(escaped, "%{byte:02X}");
            debug_assert!(written.is_ok());
        }
        escaped
    })
}

/// One instance. Only what is used; Consul adds fields over time.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Instance {
    node: Node,
    service: Service,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Node {
    #[serde(default)]
    address: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Service {
    #[serde(default, rename = "ID")]
    id: String,
    #[serde(default)]
    service: String,
    /// Empty: the node's.
    #[serde(default)]
    address: String,
    #[serde(default)]
    port: i64,
    weights: Option<Weights>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Weights {
    passing: i64,
}

impl Service {
    /// Consul's weights go from 1 to 65,535; an instance registered without has 1.
    fn weight(&self) -> u16 {
        let weight = self.weights.as_ref().map_or(1, |weights| weights.passing);
        u16::try_from(weight.clamp(0, i64::from(u16::MAX))).unwrap_or(u16::MAX)
    }

    /// The instance's name, if it can be one here. Consul makes it unique on each node only, and uses the service's name when
    /// it is registered without: then every node has the same.
    fn name(&self) -> Option<&str> {
        let id = self.id.as_str();
        (id != self.service && is_target_id(id)).then_some(id)
    }
}

/// The targets that an answer's body lists. An instance is named by its id, or by its address if the id is not unique or
/// is just the service's name.
///
/// # Errors
///
/// When it is no such list, or lists no instance with a usable address.
pub fn parse(body: &[u8], service: &str, max_targets: u32) -> Result<Answer, Failure> {
    let instances: Option<Vec<Instance>> = serde_json::from_slice(body)
        .map_err(|error| Failure::invalid(format!("Consul's answer is not a list of instances: {error}")))?;
    // Consul prints an empty list as null in some versions.
    let instances = instances.unwrap_or_default();
    let mut uses: HashMap<&str, u32> = HashMap::new();
    for name in instances.iter().filter_map(|instance| instance.service.name()) {
        *uses.entry(name).or_default() += 1;
    }
    let weights: Vec<u16> = instances.iter().map(|instance| instance.service.weight()).collect();
    let mut entries = Entries::up_to(max_targets);
    for (instance, weight) in instances.iter().zip(scaled(&weights)) {
        let Some(address) = address(instance) else {
            entries.unusable += 1;
            continue;
        };
        let mut target = plain(address);
        if let Some(name) = instance.service.name().filter(|name| uses.get(name) == Some(&1)) {
            name.clone_into(&mut target.id);
        }
        target.weight = weight;
        entries.push(target);
    }
    entries.into_answer(&format!("Consul lists no passing instance of {service:?}"))
}

/// Where the instance listens. Consul also takes host names here, which are not followed.
fn address(instance: &Instance) -> Option<SocketAddr> {
    let service = &instance.service;
    let host = if service.address.is_empty() { &instance.node.address } else { &service.address };
    let port = u16::try_from(service.port).ok()?;
    Some(SocketAddr::new(host.parse::<IpAddr>().ok()?, port))
}

#[cfg(test)]
mod tests {
    use super::super::FailureKind;
    use super::*;
    use proptest::prelude::*;

    fn instance(node: &str, id: &str, address: &str, port: i64, weight: &str) -> String {
        format!(
            r#"{{"Node":{{"Node":"{node}","Address":"{node}"}},
                "Service":{{"ID":"{id}","Service":"shop","Address":"{address}","Port":{port}{weight}}},
                "Checks":[{{"Status":"passing"}}]}}"#
        )
    }

    fn parsed(instances: &[String]) -> Result<Answer, Failure> {
        parse(format!("[{}]", instances.join(",")).as_bytes(), "shop", 100)
    }

    #[test]
    fn names_are_escaped() {
        assert_eq!(path("shop", None), "/v1/health/service/shop?passing=1");
        assert_eq!(path("a b/ö", Some("v1&x")), "/v1/health/service/a%20b%2F%C3%B6?passing=1&tag=v1%26x");
    }

    #[test]
    fn instances_are_named_addressed_and_weighted() {
        let answer = parsed(&[
            instance("10.0.0.1", "shop-1", "", 80, r#","Weights":{"Passing":1000,"Warning":1}"#),
            instance("10.0.0.2", "shop-2", "10.9.0.2", 81, r#","Weights":{"Passing":100,"Warning":1}"#),
            instance("10.0.0.3", "shop", "", 80, ""),
            instance("10.0.0.4", "twin", "", 80, ""),
            instance("10.0.0.5", "twin", "2001:db8::5", 80, ""),
        ])
        .unwrap();
        let seen: Vec<(&str, String, u16)> = answer
            .targets
            .iter()
            .map(|target| (target.id.as_str(), target.address.to_string(), target.weight))
            .collect();
        assert_eq!(
            seen,
            [
                ("shop-1", "10.0.0.1:80".to_owned(), 256),
                ("10.0.0.3:80", "10.0.0.3:80".to_owned(), 1),
                ("10.0.0.4:80", "10.0.0.4:80".to_owned(), 1),
                ("shop-2", "10.9.0.2:81".to_owned(), 26),
                ("[2001:db8::5]:80", "[2001:db8::5]:80".to_owned(), 1),
            ]
        );
    }

    #[test]
    fn what_cannot_be_connected_to_is_left_out() {
        let answer = parsed(&[
            instance("10.0.0.1", "a", "", 80, ""),
            instance("10.0.0.2", "b", "host.example", 80, ""),
            instance("10.0.0.3", "c", "", 0, ""),
            instance("10.0.0.4", "d", "", 70_000, ""),
            instance("", "e", "", 80, ""),
        ])
        .unwrap();
        assert_eq!((answer.targets.len(), answer.unusable), (1, 4));
    }

    #[test]
    fn no_instance_and_no_list_are_failures() {
        for (body, kind) in [
            ("[]", FailureKind::Empty),
            ("null", FailureKind::Empty),
            ("", FailureKind::Invalid),
            ("{}", FailureKind::Invalid),
            ("[{}]", FailureKind::Invalid),
            ("[{\"Node\":{\"Addr", FailureKind::Invalid),
            ("rpc error making call: No cluster leader", FailureKind::Invalid),
        ] {
            assert_eq!(parse(body.as_bytes(), "shop", 100).unwrap_err().kind, kind, "{body}");
        }
    }

    proptest! {
        #[test]
        fn noise_is_refused_without_panic(body in proptest::collection::vec(any::<u8>(), 0..400)) {
            prop_assert!(parse(&body, "shop", 5).is_err());
        }

        #[test]
        fn cut_off_answers_are_refused(count in 1_usize..6, cut in 1_usize..1000) {
            let all: Vec<String> =
                (0..count).map(|n| instance(&format!("10.0.0.{n}"), &format!("i{n}"), "", 80, "")).collect();
            let body = format!("[{}]", all.join(","));
            prop_assert_eq!(parse(body.as_bytes(), "shop", 100).unwrap().targets.len(), count);
            let end = body.len() - 1 - cut % (body.len() - 1);
            prop_assert_eq!(parse(&body.as_bytes()[..end], "shop", 100).unwrap_err().kind, FailureKind::Invalid);
        }
    }
}

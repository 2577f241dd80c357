//! Groups that services have turned away from (`forward` names another one since a reload). Where packets go is for new flows alone: those that are
//! there go on with the targets that they have, for the group's `drain_timeout`, as they do with a target that is removed.

use std::collections::{BTreeMap, BTreeSet};

use common::config::Config;
use common::time::{Duration, Instant};

/// The most groups that are kept for one service; of more the one whose time is over first makes place, and its flows are no longer known.
const FORMER_MAX: usize = 8;

/// Which groups the kernel's services forwarded to before, and until when these are kept.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Former {
    services: BTreeMap<String, Groups>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Groups {
    /// The one that it forwards to now, and its `drain_timeout`.
    current: (String, Duration),
    former: BTreeMap<String, Instant>,
}

impl Former {
    /// Takes in what the configuration says at this time.
    pub fn follow(&mut self, file: &Config, now: Instant) {
        let mut before = std::mem::take(&mut self.services);
        for service in file.services.iter().filter(|service| service.mode.in_kernel()) {
            let mut groups = before.remove(&service.name).unwrap_or_default();
            let drain =
                file.target_group(&service.forward).map_or(Duration::ZERO, |group| group.drain_timeout);
            let (left, left_drain) = std::mem::replace(&mut groups.current, (service.forward.clone(), drain));
            if left != service.forward && !left.is_empty() {
                groups.former.insert(left, now + left_drain);
            }
            groups.former.remove(&service.forward);
            groups.former.retain(|_, until| *until > now);
            while groups.former.len() > FORMER_MAX {
                let first =
                    groups.former.iter().min_by_key(|(_, until)| **until).map(|(name, _)| name.clone());
                first.map(|name| groups.former.remove(&name));
            }
            self.services.insert(service.name.clone(), groups);
        }
    }

    /// Those of a service.
    pub fn of(&self, service: &str) -> impl Iterator<Item = &str> {
        self.services.get(service).into_iter().flat_map(|groups| groups.former.keys()).map(String::as_str)
    }

    /// Those of all services.
    #[must_use]
    pub fn all(&self) -> BTreeSet<&str> {
        self.services.values().flat_map(|groups| groups.former.keys()).map(String::as_str).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{file, group, service};
    use super::*;

    fn turned_to(forward: &str) -> Config {
        let services = service("s", "nat", "\"192.0.2.10:80\"", "")
            .replace("forward = \"s\"", &format!("forward = \"{forward}\""));
        let groups: String = (0..12)
            .map(|number| group(&format!("g{number}"), "10.0.1.1:80", "drain_timeout = \"30s\""))
            .collect();
        file(&services, &groups)
    }

    fn at(seconds: u64) -> Instant {
        Instant::ZERO + Duration::from_secs(seconds)
    }

    #[test]
    fn a_group_is_kept_for_its_time_or_until_it_is_the_service_s_again() {
        let mut former = Former::default();
        former.follow(&turned_to("g1"), at(0));
        assert_eq!(former.of("s").count(), 0);
        former.follow(&turned_to("g2"), at(10));
        former.follow(&turned_to("g2"), at(39));
        assert_eq!(former.of("s").collect::<Vec<_>>(), ["g1"]);
        former.follow(&turned_to("g2"), at(40));
        assert_eq!(former.of("s").count(), 0, "from the time when it was left");
        former.follow(&turned_to("g1"), at(50));
        assert_eq!(former.of("s").collect::<Vec<_>>(), ["g2"]);
        former.follow(&turned_to("g2"), at(60));
        assert_eq!(former.of("s").collect::<Vec<_>>(), ["g1"]);
        former.follow(&turned_to("g2"), at(90));
        assert_eq!((former.of("s").count(), former.all().len()), (0, 0));
    }

    #[test]
    fn a_service_that_is_gone_has_none_and_the_number_is_bounded() {
        let mut former = Former::default();
        for number in 0..12 {
            former.follow(&turned_to(&format!("g{number}")), at(number));
        }
        assert_eq!(former.of("s").count(), FORMER_MAX);
        assert!(former.of("s").all(|group| !["g0", "g1", "g2", "g11"].contains(&group)));
        former.follow(&file("", ""), at(13));
        assert!(former.all().is_empty());
    }
}

//! Groups that services have turned away from (`forward` names another one since a reload). Where packets go is for new flows alone: those that are
//! there go on with the targets that they have, for the group's `drain_timeout`, as they do with a target that is removed. And a service turns to
//! a group when it can be reached, for packets that the program could send nowhere would be lost.

use std::collections::{BTreeMap, BTreeSet};

use common::config::{Algorithm, Config, Service, TargetGroup};
use common::time::{Duration, Instant};

/// The most groups that are kept for one service; of more the one whose time is over first makes place, and its flows are no longer known.
const FORMER_MAX: usize = 8;

/// So long a group that cannot be reached is waited for.
const WAIT_MAX: Duration = Duration::from_secs(5);

/// Which groups the kernel's services forwarded to before, and until when these are kept.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Former {
    services: BTreeMap<String, Groups>,
}

/// How a group's targets are chosen, as far as a service of the program has a say in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Choice {
    /// By the client's address alone.
    pub(super) by_source: bool,
    /// So long a client's target is remembered, if it is.
    pub(super) sticky: Option<Duration>,
}

impl Choice {
    fn of(group: &TargetGroup) -> Self {
        let by_source = group.algorithm == Algorithm::ConsistentHash;
        Self { by_source, sticky: group.sticky.as_ref().map(|sticky| sticky.ttl) }
    }
}

/// A group, as it was when the file had it last.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Group {
    name: String,
    drain: Duration,
    choice: Choice,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Groups {
    /// The one that it forwards to by its configuration.
    current: Group,
    /// The one that gets its new flows still, and until when at most.
    serving: Option<(Group, Instant)>,
    former: BTreeMap<String, Instant>,
}

impl Groups {
    fn turn(&mut self, group: Group, now: Instant) {
        let left = std::mem::replace(&mut self.current, group);
        let current = &self.current.name;
        if left.name != *current && !left.name.is_empty() && self.serving.is_none() {
            self.serving = Some((left, now + WAIT_MAX));
        }
        self.serving.take_if(|(serving, _)| serving.name == *current);
        self.former.retain(|_, until| *until > now);
    }

    fn settle(&mut self, now: Instant, can_reach: impl Fn(&str) -> bool) {
        let current = &self.current.name;
        if let Some((left, _)) = self.serving.take_if(|(_, until)| *until <= now || can_reach(current)) {
            self.former.insert(left.name, now + left.drain);
        }
        if self.serving.is_none() {
            self.former.remove(current);
        }
        while self.former.len() > FORMER_MAX {
            let first = self.former.iter().min_by_key(|(_, until)| **until).map(|(name, _)| name.clone());
            first.map(|name| self.former.remove(&name));
        }
    }
}

impl Former {
    /// Takes in what the configuration says at this time.
    pub fn follow(&mut self, file: &Config, now: Instant) {
        let mut before = std::mem::take(&mut self.services);
        for service in file.services.iter().filter(|service| service.mode.in_kernel()) {
            let mut groups = before.remove(&service.name).unwrap_or_default();
            let group = file.target_group(&service.forward);
            let group = Group {
                name: service.forward.clone(),
                drain: group.map_or(Duration::ZERO, |group| group.drain_timeout),
                choice: group.map(Choice::of).unwrap_or_default(),
            };
            groups.turn(group, now);
            self.services.insert(service.name.clone(), groups);
        }
    }

    /// Has services turn to groups that can be reached, as `can_reach` says, or that were waited for long enough.
    pub fn settle(&mut self, now: Instant, can_reach: impl Fn(&str) -> bool) {
        self.services.values_mut().for_each(|groups| groups.settle(now, &can_reach));
    }

    /// The group that gets a service's new flows.
    #[must_use]
    pub fn serving<'s>(&'s self, service: &'s Service) -> &'s str {
        let groups = self.services.get(&service.name);
        let serving = groups.and_then(|groups| groups.serving.as_ref());
        serving.map_or(&service.forward, |(serving, _)| &serving.name)
    }

    /// How the targets are chosen that get a service's new flows; those of a group that the file no longer has as it had it.
    pub(super) fn choice(&self, file: &Config, service: &Service) -> Choice {
        if let Some(group) = file.target_group(self.serving(service)) {
            return Choice::of(group);
        }
        let serving = self.services.get(&service.name).and_then(|groups| groups.serving.as_ref());
        serving.map(|(serving, _)| serving.choice).unwrap_or_default()
    }

    /// The groups of a service that get no new flows: its former ones, and one that it has not turned to yet.
    pub fn others<'s>(&'s self, service: &'s Service) -> impl Iterator<Item = &'s str> {
        let groups = self.services.get(&service.name);
        let former = groups.into_iter().flat_map(|groups| groups.former.keys()).map(String::as_str);
        let serving = self.serving(service);
        let is_former = groups.is_some_and(|groups| groups.former.contains_key(&service.forward));
        let coming = (!is_former).then_some(service.forward.as_str());
        former.chain(coming).filter(move |group| *group != serving)
    }

    /// Former groups of all services.
    #[must_use]
    pub fn all(&self) -> BTreeSet<&str> {
        self.services.values().flat_map(|groups| groups.former.keys()).map(String::as_str).collect()
    }

    /// Until when a group is waited for at most.
    #[must_use]
    pub fn waits_until(&self) -> Option<Instant> {
        self.services.values().filter_map(|groups| groups.serving.as_ref()).map(|(.., until)| *until).min()
    }

    /// When there is something to be done at the latest: a group is not waited for any longer, or the time of a former one is over.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        let ends = self.services.values().flat_map(|groups| groups.former.values().copied());
        ends.chain(self.waits_until()).min()
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

    fn others(former: &Former, file: &Config) -> Vec<String> {
        former.others(&file.services[0]).map(str::to_owned).collect()
    }

    #[test]
    fn a_group_is_kept_for_its_time_or_until_it_is_the_service_s_again() {
        let mut former = Former::default();
        let mut turn = |forward: &str, seconds: u64| {
            let file = turned_to(forward);
            former.follow(&file, at(seconds));
            former.settle(at(seconds), |_| true);
            assert_eq!((former.serving(&file.services[0]), former.waits_until()), (forward, None));
            assert_eq!(former.deadline().is_some(), !others(&former, &file).is_empty());
            others(&former, &file)
        };
        assert!(turn("g1", 0).is_empty());
        assert_eq!(turn("g2", 10), ["g1"]);
        assert_eq!(turn("g2", 39), ["g1"]);
        assert!(turn("g2", 40).is_empty(), "from the time when it was left");
        assert_eq!(turn("g1", 50), ["g2"]);
        assert_eq!(turn("g2", 60), ["g1"]);
        assert!(turn("g2", 90).is_empty());
    }

    #[test]
    fn a_service_turns_when_it_can_or_has_waited() {
        let mut former = Former::default();
        let mut turn = |forward: &str, seconds: u64, can: bool| {
            let file = turned_to(forward);
            former.follow(&file, at(seconds));
            former.settle(at(seconds), |group| can && group == forward);
            (former.serving(&file.services[0]).to_owned(), others(&former, &file))
        };
        let is = |serving: &str, others: &[&str]| {
            (serving.to_owned(), others.iter().map(|it| (*it).to_owned()).collect())
        };
        assert_eq!(turn("g1", 0, false), is("g1", &[]), "the first one is not waited for");
        assert_eq!(turn("g2", 10, false), is("g1", &["g2"]));
        assert_eq!(turn("g2", 12, true), is("g2", &["g1"]));
        assert_eq!(turn("g3", 20, false), is("g2", &["g1", "g3"]));
        assert_eq!(turn("g4", 24, false), is("g2", &["g1", "g4"]), "g3 never had a flow");
        assert_eq!(
            turn("g4", 25, false),
            is("g4", &["g1", "g2"]),
            "waited for since it was turned away from g2"
        );
        assert_eq!(turn("g1", 30, false), is("g4", &["g1", "g2"]));
        assert_eq!(turn("g4", 31, false), is("g4", &["g1", "g2"]), "back before it had turned");
    }

    #[test]
    fn who_still_serves_is_chosen_as_before() {
        let of = |forward: &str, keys: &str| {
            let services = service("s", "nat", "\"192.0.2.10:80\"", "")
                .replace("forward = \"s\"", &format!("forward = \"{forward}\""));
            file(&services, &group(forward, "10.0.1.1:80", keys))
        };
        let keys = "algorithm = \"consistent_hash\"\nsticky = { by = \"source_ip\", ttl = \"10s\" }";
        let (first, second) = (of("g1", keys), of("g2", ""));
        let before = Choice { by_source: true, sticky: Some(Duration::from_secs(10)) };
        let mut former = Former::default();
        for (file, can, expected) in
            [(&first, true, before), (&second, false, before), (&second, true, Choice::default())]
        {
            former.follow(file, at(1));
            former.settle(at(1), |_| can);
            assert_eq!(former.choice(file, &file.services[0]), expected, "{can}");
        }
    }

    #[test]
    fn a_service_that_is_gone_has_none_and_the_number_is_bounded() {
        let mut former = Former::default();
        for number in 0..12 {
            former.follow(&turned_to(&format!("g{number}")), at(number));
            former.settle(at(number), |_| true);
        }
        let kept = others(&former, &turned_to("g11"));
        assert_eq!(kept.len(), FORMER_MAX);
        assert!(kept.iter().all(|group| !["g0", "g1", "g2", "g11"].contains(&group.as_str())));
        former.follow(&file("", ""), at(13));
        assert!(former.all().is_empty());
    }
}

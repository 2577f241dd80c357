//! The configuration as the workers use it: one immutable snapshot, and the parts that live on from one to the next.

mod group;
mod sticky;
mod target;

use std::collections::{BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;

use common::config::{self, Config, Http, HttpAuth, Mode, SniRule, load_key};
use common::hash::HashKey;
use common::key::PairKey;
use common::time::Now;
use lbd_core::admission::ConnectionCount;
use lbd_core::bell::Bell;
use lbd_core::http::auth::{Telling, taken_away};
use lbd_core::replication::Tuple;
use lbd_core::sources::SourceCounts;
use lbd_core::sticky::StickyTable;
use lbd_core::target::TargetKey;

pub(crate) use group::Group;
pub(crate) use sticky::{KnownBy, Stickiness};
pub(crate) use target::{Alarm, FailureKind, LastCheck, Target};

use crate::access_log::{AccessLogs, Sink};
use crate::counters::{RuleCounters, ServiceCounters, Sharded};
use crate::l4::Guard;
use crate::l4::kernel::Sessions;
use crate::otlp::{Exporters, Tracer};
use crate::random;
use crate::site_files::SiteFiles;
use crate::tls::{Termination, TlsSet};

/// One configuration, ready for use. Never changed, only replaced as a whole.
#[derive(Debug)]
pub(crate) struct Snapshot {
    /// Counts up with each configuration and each change of a target list or of a weight.
    pub(crate) generation: u64,
    /// What it was made from.
    pub(crate) config: Arc<Config>,
    /// In the file's order.
    pub(crate) services: Vec<Arc<Service>>,
    /// In the file's order.
    pub(crate) groups: Vec<Arc<Group>>,
    /// The service that listens on an address: one for connections, one for datagrams.
    pub(crate) by_address: HashMap<(Mode, SocketAddr), Arc<Service>>,
    /// The key of the hashes that choose targets.
    pub(crate) hash_key: HashKey,
    /// Where connections are logged.
    pub(crate) access_logs: AccessLogs,
    /// Where spans of requests are sent.
    pub(crate) exporters: Exporters,
    /// Certificates and what else TLS needs.
    pub(crate) tls: Arc<TlsSet>,
    /// What the other files hold that `http` services name.
    pub(crate) files: Arc<SiteFiles>,
    groups_by_name: HashMap<String, Arc<Group>>,
}

/// A service, and its groups.
#[derive(Debug)]
pub(crate) struct Service {
    /// What the file says.
    pub(crate) config: config::Service,
    /// What serves it when no rule says otherwise.
    pub(crate) group: Arc<Group>,
    /// Its rules with the groups they name, in the file's order.
    pub(crate) rules: Vec<(SniRule, Arc<Group>)>,
    /// The groups that its requests may be forwarded to, each once; only with `http`.
    pub(crate) http_groups: Vec<Arc<Group>>,
    /// Who is let in.
    pub(crate) guard: Guard,
    /// The fields that are taken away from what clients send, in lower case: its targets are told in them who a request is from.
    pub(crate) told_in: Vec<String>,
    /// What the files hold that it names.
    pub(crate) files: Arc<SiteFiles>,
    /// Where its connections are logged, if they are.
    pub(crate) access_log: Option<Sink>,
    /// Who is told of its requests, if somebody is.
    pub(crate) tracer: Option<Tracer>,
    /// How its connections are encrypted, if they are.
    pub(crate) tls: Option<Arc<Termination>>,
    /// What is counted of the requests that meet no rule, and behind that of those of each rule; only with `http`. A rule that takes the
    /// place of another one in a reload goes on with its counters, so that they never go down.
    pub(crate) by_rule: Vec<Arc<Sharded<RuleCounters>>>,
    /// What lives on over reloads, as long as the name stays.
    pub(crate) shared: Arc<ServiceShared>,
}

impl Service {
    /// Every group that may serve it; one that several rules name comes several times.
    pub(crate) fn groups(&self) -> impl Iterator<Item = &Arc<Group>> {
        let default = self.config.http.is_none().then_some(&self.group);
        default.into_iter().chain(self.rules.iter().map(|(_, group)| group)).chain(&self.http_groups)
    }

    /// Of the groups that may serve it, the one whose connections drain for longest.
    pub(crate) fn last_to_drain(&self) -> &Group {
        self.groups().max_by_key(|group| group.config.drain_timeout).unwrap_or(&self.group)
    }

    /// What is counted of the requests that meet this rule, or none; nothing without `http`.
    pub(crate) fn counters_of(&self, rule: Option<usize>) -> Option<&Arc<Sharded<RuleCounters>>> {
        self.by_rule.get(rule.map_or(0, |index| index + 1))
    }
}

/// The part of a service that reloads keep.
#[derive(Debug)]
pub(crate) struct ServiceShared {
    /// Connections open now.
    pub(crate) open: ConnectionCount,
    /// The same for each client, while that is limited.
    pub(crate) sources: SourceCounts,
    /// What the workers count.
    pub(crate) counters: Sharded<ServiceCounters>,
    /// Which target each session has, and on which node it lives, while the other node is to know; of a `udp` service.
    pub(crate) sessions: StickyTable<Tuple>,
}

/// Sessions of a service that the nodes tell each other of, at most.
pub(crate) const TOLD_SESSIONS_MAX: u32 = 131_072;

impl ServiceShared {
    fn new(service: &config::Service, life: &Life) -> Self {
        Self {
            open: ConnectionCount::default(),
            sources: SourceCounts::default(),
            counters: Sharded::new(life.workers),
            sessions: StickyTable::new(told_sessions(service), service.timeout.idle, &life.bell)
                .telling(Arc::<Sessions>::clone(&life.sessions)),
        }
    }
}

impl Drop for ServiceShared {
    fn drop(&mut self) {
        self.sessions.close();
    }
}

/// Sessions of this service that the nodes tell each other of, at most.
pub(crate) fn told_sessions(service: &config::Service) -> usize {
    if service.mode == Mode::Udp { service.limits.max_connections.min(TOLD_SESSIONS_MAX) as usize } else { 1 }
}

/// What stays the same for as long as the daemon runs.
#[derive(Clone, Debug)]
pub(crate) struct Life {
    /// This node's name; empty without nodes and host name.
    pub(crate) node: String,
    /// A number that no other process of this node has had.
    pub(crate) process: u64,
    /// How many workers there are.
    pub(crate) workers: usize,
    /// What targets raise when their connections fail too often.
    pub(crate) alarm: Arc<Alarm>,
    /// Rung when something has changed that the other node is to hear of.
    pub(crate) bell: Arc<Bell>,
    /// Told which node has each session of a `udp` service.
    pub(crate) sessions: Arc<Sessions>,
    /// What the tickets of TLS sessions are made with where there is no pair's key.
    pub(crate) ticket_secret: PairKey,
}

/// What a new snapshot takes over from the time before it.
pub(crate) struct Carry {
    life: Life,
    hash_key: HashKey,
    hash_key_before: Option<HashKey>,
    services: HashMap<String, Arc<Service>>,
    groups: HashMap<String, Arc<Group>>,
    /// Targets of the snapshot and removed ones whose connections still go on.
    targets: HashMap<TargetKey, Arc<Target>>,
    access_logs: AccessLogs,
    exporters: Exporters,
    tls: Arc<TlsSet>,
    files: Arc<SiteFiles>,
    /// The generation of the snapshot before.
    generation: u64,
}

impl Carry {
    /// For the first snapshot.
    pub(crate) fn nothing(life: Life, hash_key: HashKey) -> Self {
        Self {
            life,
            hash_key,
            hash_key_before: None,
            services: HashMap::new(),
            groups: HashMap::new(),
            targets: HashMap::new(),
            access_logs: AccessLogs::default(),
            exporters: Exporters::default(),
            tls: Arc::default(),
            files: Arc::default(),
            generation: 0,
        }
    }

    /// What `snapshot` and the removed targets hand on.
    pub(crate) fn from(life: Life, hash_key: HashKey, snapshot: &Snapshot, removed: &[Arc<Target>]) -> Self {
        let named = |service: &Arc<Service>| (service.config.name.clone(), Arc::clone(service));
        let live = snapshot.groups.iter().flat_map(|group| &group.targets);
        let targets = removed.iter().chain(live);
        Self {
            hash_key_before: Some(snapshot.hash_key),
            services: snapshot.services.iter().map(named).collect(),
            groups: snapshot.groups_by_name.clone(),
            targets: targets.map(|target| (target.key.clone(), Arc::clone(target))).collect(),
            access_logs: snapshot.access_logs.clone(),
            exporters: snapshot.exporters.clone(),
            tls: Arc::clone(&snapshot.tls),
            files: Arc::clone(&snapshot.files),
            generation: snapshot.generation,
            ..Self::nothing(life, hash_key)
        }
    }

    /// With these access logs instead of those of before.
    pub(crate) fn logging_to(self, access_logs: AccessLogs) -> Self {
        Self { access_logs, ..self }
    }

    /// With these collectors instead of those of before.
    pub(crate) fn telling(self, exporters: Exporters) -> Self {
        Self { exporters, ..self }
    }

    /// With this TLS instead of that of before.
    pub(crate) fn encrypting_by(self, tls: TlsSet) -> Self {
        Self { tls: Arc::new(tls), ..self }
    }

    /// With the contents of these files instead of those of before.
    pub(crate) fn reading(self, files: SiteFiles) -> Self {
        Self { files: Arc::new(files), ..self }
    }

    /// The target of this key, which may have been there before.
    fn target(&self, group: &str, target: &config::Target) -> Arc<Target> {
        let key = TargetKey { group: group.to_owned(), id: target.id.clone(), address: target.address };
        let fresh = || Arc::new(Target::new(key.clone(), Arc::clone(&self.life.alarm), self.life.workers));
        self.targets.get(&key).map_or_else(fresh, Arc::clone)
    }
}

impl Snapshot {
    /// Builds the snapshot of `config`. Nothing that is in use changes before [`Snapshot::adopt`].
    pub(crate) fn build(config: Arc<Config>, carry: &Carry) -> Self {
        let groups: Vec<Arc<Group>> =
            config.target_groups.iter().map(|group| Group::build(group, &config, carry)).collect();
        let groups_by_name: HashMap<String, Arc<Group>> =
            groups.iter().map(|group| (group.config.name.clone(), Arc::clone(group))).collect();
        let mut services = Vec::with_capacity(config.services.len());
        let mut by_address = HashMap::new();
        for (service, told_in) in config.services.iter().zip(told_in(&config, &groups_by_name)) {
            // A valid configuration forwards to its own groups only.
            let nobody = || service.http.as_ref().map(|_| Group::nobody(&config, carry));
            let Some(group) = groups_by_name.get(&service.forward).map(Arc::clone).or_else(nobody) else {
                continue;
            };
            let names: BTreeSet<&str> = service.http.iter().flat_map(Http::groups).collect();
            let named = |rule: &SniRule| Some((rule.clone(), Arc::clone(groups_by_name.get(&rule.forward)?)));
            let fresh = || Arc::new(ServiceShared::new(service, &carry.life));
            let before = carry.services.get(&service.name);
            let built = Arc::new(Service {
                config: service.clone(),
                group,
                http_groups: names.into_iter().filter_map(|name| groups_by_name.get(name).cloned()).collect(),
                rules: service.rules.iter().filter_map(named).collect(),
                guard: Guard::new(service, before.map(|before| &before.guard), &carry.life.bell),
                told_in,
                tls: carry.tls.service(&service.name),
                files: Arc::clone(&carry.files),
                access_log: service.access_log.as_ref().and_then(|log| carry.access_logs.sink(log)),
                tracer: service.http.as_ref().and_then(|http| carry.exporters.tracer(http.otlp.as_ref()?)),
                by_rule: by_rule(service, before, &carry.life),
                shared: before.map_or_else(fresh, |before| Arc::clone(&before.shared)),
            });
            let addresses = service.listen.iter().map(|listen| (service.mode.listening(), listen.address));
            by_address.extend(addresses.map(|address| (address, Arc::clone(&built))));
            services.push(built);
        }
        Self {
            generation: carry.generation + 1,
            config,
            services,
            groups,
            by_address,
            hash_key: carry.hash_key,
            access_logs: carry.access_logs.clone(),
            exporters: carry.exporters.clone(),
            tls: Arc::clone(&carry.tls),
            files: Arc::clone(&carry.files),
            groups_by_name,
        }
    }

    /// Puts it in force as far as it is not a matter of the workers' own look at it: to be called before they get it, so
    /// that new targets have their shares by then.
    pub(crate) fn adopt(&self, now: Now) {
        for group in &self.groups {
            group.adopt(now);
        }
        for service in &self.services {
            let sessions = &service.shared.sessions;
            sessions.reconfigure(told_sessions(&service.config), service.config.timeout.idle);
        }
    }

    /// The target group of this name.
    pub(crate) fn group(&self, name: &str) -> Option<&Arc<Group>> {
        self.groups_by_name.get(name)
    }

    /// Every address listened on in this mode.
    pub(crate) fn addresses(&self, mode: Mode) -> impl Iterator<Item = SocketAddr> + '_ {
        self.by_address.keys().filter(move |(its, _)| *its == mode).map(|&(_, address)| address)
    }
}

/// See [`Service::by_rule`].
fn by_rule(
    service: &config::Service,
    before: Option<&Arc<Service>>,
    life: &Life,
) -> Vec<Arc<Sharded<RuleCounters>>> {
    let places = service.http.as_ref().map_or(0, |http| 1 + http.rules.len());
    let known = |place: usize| before.and_then(|before| before.by_rule.get(place)).map(Arc::clone);
    let fresh = || Arc::new(Sharded::new(life.workers));
    (0..places).map(|place| known(place).unwrap_or_else(fresh)).collect()
}

/// Where the targets of each service are told who a request is from, be it by another service.
fn told_in(config: &Config, groups: &HashMap<String, Arc<Group>>) -> Vec<Vec<String>> {
    let services = config.services.iter().map(|service| {
        let http = service.http.iter();
        let named = http.clone().flat_map(Http::groups).filter_map(|name| groups.get(name));
        Telling {
            fields: http.flat_map(Http::auths).flat_map(HttpAuth::told_in).collect(),
            targets: named.flat_map(|group| &group.targets).map(|target| target.key.address).collect(),
        }
    });
    taken_away(&services.collect::<Vec<_>>())
}

/// The key of the hashes that choose targets: the pair's, so that a client keeps its target when the pair switches over.
/// Without one the key of before, and at first one of this process's own.
pub(crate) fn hash_key(config: &Config, before: Option<HashKey>) -> HashKey {
    match load_key(&config.pair) {
        Ok(Some(key)) => return HashKey::of_pair(&key),
        Ok(None) => {}
        Err(error) => tracing::warn!(
            %error,
            "clients of groups that choose by hash will get other targets from the other node"
        ),
    }
    before.unwrap_or_else(random::hash_key)
}

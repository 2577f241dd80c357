//! Targets from DNS.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{
    ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts,
};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::rr::{RData, RecordType};
use lbd_core::discover::dns::{
    Hosts, Lookup, Names, Service, from_addresses, from_services, in_order, in_turn,
};
use lbd_core::discover::{Answer, Failure};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

use super::{Asking, Source};

/// A server that has not answered after this time is asked again, or another one is.
const TRY_MAX: Duration = Duration::from_secs(2);

/// Tries beyond the first one.
const RETRIES: usize = 1;

/// Hosts of SRV records whose addresses are asked for at the same time.
const HOSTS_AT_ONCE: usize = 16;

/// The time for the addresses of a name, or of all hosts of SRV records together. The others keep the addresses that they had, or wait for the
/// next time: a list that is long, or of which many hosts do not answer, must not be without end.
const ADDRESSES_MAX: Duration = Duration::from_secs(10);

/// A name's records.
pub(super) struct Dns {
    question: Question,
    server: Option<SocketAddr>,
    names: Names,
    max_targets: u32,
}

enum Question {
    /// A and AAAA.
    Addresses { name: String, port: u16 },
    /// SRV.
    Services {
        name: String,
        /// The host that was asked for last.
        last: String,
    },
}

impl Dns {
    pub(super) fn addresses(name: String, port: u16, server: Option<SocketAddr>, max_targets: u32) -> Self {
        Self::new(Question::Addresses { name, port }, server, max_targets)
    }

    pub(super) fn services(name: String, server: Option<SocketAddr>, max_targets: u32) -> Self {
        Self::new(Question::Services { name, last: String::new() }, server, max_targets)
    }

    fn new(question: Question, server: Option<SocketAddr>, max_targets: u32) -> Self {
        Self { question, server, names: Names::up_to(max_targets), max_targets }
    }

    async fn resolve(&mut self) -> Result<Answer, Failure> {
        let resolver = resolver(self.server)?;
        match &mut self.question {
            Question::Addresses { name, port } => {
                let both = lookup_both(&resolver, name, Instant::now() + ADDRESSES_MAX).await;
                let addresses = self.names.settle(name, both)?;
                from_addresses(name, &addresses, *port, self.max_targets)
            }
            Question::Services { name, last } => {
                let (services, ttl) = match lookup(&resolver, name, RecordType::SRV, service).await {
                    Lookup::Found { records, ttl } => (records, ttl),
                    Lookup::Missing { ttl } => {
                        let failure = Failure::empty(format!("DNS has no SRV records for {name}"));
                        return Err(Failure { ttl, ..failure });
                    }
                    Lookup::Failed(message) => {
                        return Err(Failure::unreachable(format!(
                            "asking DNS for SRV records of {name}: {message}"
                        )));
                    }
                };
                let (services, over_limit) = in_order(services, self.max_targets);
                let hosts = hosts(&resolver, &services, &mut self.names, last).await;
                let answer = from_services(name, &services, ttl, &hosts, &self.names, self.max_targets)?;
                Ok(Answer { over_limit: answer.over_limit + over_limit, ..answer })
            }
        }
    }
}

impl Source for Dns {
    fn ask(&mut self) -> Asking<'_> {
        Box::pin(self.resolve())
    }
}

/// Made anew for each question: the host's settings may have changed, and remembering answers is not wanted here, where they
/// are asked for when they have run out.
fn resolver(server: Option<SocketAddr>) -> Result<TokioResolver, Failure> {
    let mut builder = match server {
        Some(server) => {
            let mut connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()];
            for connection in &mut connections {
                connection.port = server.port();
            }
            let server = NameServerConfig::new(server.ip(), true, connections.into());
            let config = ResolverConfig::from_parts(None, Vec::new(), vec![server]);
            let mut builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
            builder.options_mut().use_hosts_file = ResolveHosts::Never;
            builder
        }
        None => TokioResolver::builder_tokio()
            .map_err(|error| Failure::unreachable(format!("cannot use /etc/resolv.conf: {error}")))?,
    };
    bound(builder.options_mut());
    builder.build().map_err(|error| Failure::unreachable(format!("cannot ask DNS: {error}")))
}

fn bound(options: &mut ResolverOpts) {
    options.cache_size = 0;
    options.timeout = options.timeout.min(TRY_MAX);
    options.attempts = options.attempts.min(RETRIES);
}

/// The addresses of both families: one of them may have answered by `end` when the other one has not.
async fn lookup_both(resolver: &TokioResolver, name: &str, end: Instant) -> [Lookup<IpAddr>; 2] {
    let (v4, v6) = tokio::join!(
        timeout_at(end, lookup(resolver, name, RecordType::A, address)),
        timeout_at(end, lookup(resolver, name, RecordType::AAAA, address))
    );
    [v4, v6].map(|lookup| lookup.unwrap_or_else(|_| late()))
}

async fn lookup<T>(
    resolver: &TokioResolver,
    name: &str,
    kind: RecordType,
    content: impl Fn(&RData) -> Option<T>,
) -> Lookup<T> {
    match resolver.lookup(name, kind).await {
        Ok(found) => {
            let records: Vec<T> = found.answers().iter().filter_map(|record| content(&record.data)).collect();
            let ttl = found.answers().iter().map(|record| record.ttl).min();
            if records.is_empty() {
                return Lookup::Missing { ttl: None };
            }
            Lookup::Found { records, ttl: Duration::from_secs(ttl.unwrap_or(0).into()) }
        }
        Err(NetError::Dns(DnsError::NoRecordsFound(none))) => {
            Lookup::Missing { ttl: none.negative_ttl.map(|ttl_s| Duration::from_secs(ttl_s.into())) }
        }
        Err(error) => Lookup::Failed(error.to_string()),
    }
}

fn address(data: &RData) -> Option<IpAddr> {
    match data {
        RData::A(address) => Some(address.0.into()),
        RData::AAAA(address) => Some(address.0.into()),
        _ => None,
    }
}

fn service(data: &RData) -> Option<Service> {
    let RData::SRV(srv) = data else { return None };
    let host = srv.target.to_ascii().to_ascii_lowercase();
    Some(Service { priority: srv.priority, host, port: srv.port, weight: srv.weight })
}

/// The addresses of all hosts, some at a time; `last` is the one that had its turn last.
async fn hosts(
    resolver: &TokioResolver,
    services: &[Service],
    names: &mut Names,
    last: &mut String,
) -> Hosts {
    let wanted = in_turn(services, last);
    names.keep(&wanted.iter().copied().collect());
    let mut waiting = wanted.into_iter();
    let (mut running, mut hosts) = (JoinSet::new(), Hosts::new());
    let end = Instant::now() + ADDRESSES_MAX;
    loop {
        while running.len() < HOSTS_AT_ONCE
            && Instant::now() < end
            && let Some(host) = waiting.next()
        {
            host.clone_into(last);
            let (resolver, host) = (resolver.clone(), host.to_owned());
            running.spawn(async move {
                let both = lookup_both(&resolver, &host, end).await;
                (host, both)
            });
        }
        match running.join_next().await {
            Some(Ok((host, both))) => {
                let addresses = names.settle(&host, both);
                hosts.insert(host, addresses);
            }
            // Only on shutdown.
            Some(Err(_)) => {}
            None => break,
        }
    }
    for host in waiting {
        hosts.insert(host.to_owned(), names.settle(host, [late(), late()]));
    }
    hosts
}

fn late() -> Lookup<IpAddr> {
    Lookup::Failed(format!("no answer within the {} s for all addresses", ADDRESSES_MAX.as_secs()))
}

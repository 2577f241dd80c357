//! `discover` of a target group as written.

use std::net::SocketAddr;
use std::path::PathBuf;

use super::reader::{At, Cursor, Table};
use super::text;
use super::value::{is_host_and_port, is_host_name, is_server, joined, unusable_host};
use crate::config::diag::{Problems, quoted};
use crate::config::problem::Problem;
use crate::config::types::{Discover, DiscoverSource};
use crate::time::Duration;

/// The keys that say where targets come from.
const SOURCES: [&str; 5] = ["file", "dns", "srv", "consul", "etcd"];

/// The keys that say more about it, each with the sources it has a meaning for.
const DETAILS: [(&str, &[&str]); 4] =
    [("server", &["dns", "srv"]), ("service", &["consul"]), ("tag", &["consul"]), ("prefix", &["etcd"])];

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);

pub(super) fn read(cursor: &Cursor<'_>, out: &mut Problems) -> Option<Discover> {
    if !cursor.is_table() {
        return cursor.mismatch("a table such as { dns = \"shop.internal:8080\" }", out);
    }
    let mut table = cursor.table(out)?;
    let source = source(cursor, &mut table, out);
    let refresh = table.get("refresh").and_then(|c| c.duration(SECOND, HOUR, out)).map(At::into_inner);
    let max_targets = table.get("max_targets").and_then(|c| c.integer(1_u32, 4096, out)).unwrap_or(1024);
    table.finish(out);
    Some(Discover { source: source?, refresh, max_targets })
}

/// Where the table says targets come from; none when it says nothing that can be asked.
fn source(cursor: &Cursor<'_>, table: &mut Table<'_>, out: &mut Problems) -> Option<DiscoverSource> {
    let [file, dns, srv, consul, etcd] = SOURCES.map(|key| table.get(key));
    let given: Vec<&str> = SOURCES.into_iter().filter(|key| table.has(key)).collect();
    if given.len() != 1 {
        let choices = SOURCES.join(", ");
        let found = if given.is_empty() { "none".to_owned() } else { given.join(" and ") };
        out.add(cursor.span(), Problem::OneOf { key: cursor.key(), choices, found });
    }
    let [server, service, tag, prefix] = DETAILS.map(|(key, sources)| {
        let detail = table.get(key)?;
        // With none of them there is nothing to be without.
        if given.is_empty() || sources.iter().any(|source| given.contains(source)) {
            return Some(detail);
        }
        out.add(detail.span(), Problem::KeyWithout { key: detail.key(), needs: joined(sources) });
        None
    });
    let server = server.and_then(|c| dns_server(&c, out));
    let mut sources = Vec::new();
    if let Some(path) = file.and_then(|c| text(&c, out)) {
        sources.push(DiscoverSource::File(PathBuf::from(path.into_inner())));
    }
    if let Some((name, port)) = dns.and_then(|c| host_and_port(&c, out)) {
        sources.push(DiscoverSource::Dns { name, port, server });
    }
    if let Some(name) = srv.and_then(|c| c.string_that(is_host_name, bad_host_name, out)) {
        sources.push(DiscoverSource::Srv { name: name.into_inner(), server });
    }
    if let Some(consul) = consul {
        let url = url(&consul, out);
        let service = service.or_else(|| table.required("service", out)).and_then(|c| text(&c, out));
        let tag = tag.and_then(|c| text(&c, out)).map(At::into_inner);
        sources.extend(url.zip(service).map(|(url, service)| DiscoverSource::Consul {
            url,
            service: service.into_inner(),
            tag,
        }));
    }
    if let Some(etcd) = etcd {
        let url = url(&etcd, out);
        let prefix = prefix.or_else(|| table.required("prefix", out)).and_then(|c| text(&c, out));
        let source =
            |(url, prefix): (String, At<String>)| DiscoverSource::Etcd { url, prefix: prefix.into_inner() };
        sources.extend(url.zip(prefix).map(source));
    }
    sources.pop().filter(|_| given.len() == 1)
}

const fn bad_host_name(key: String, value: String) -> Problem {
    Problem::BadHostName { key, value }
}

fn dns_server(cursor: &Cursor<'_>, out: &mut Problems) -> Option<SocketAddr> {
    let address = cursor.socket_address(out)?.into_inner();
    let Some(why) = unusable_host(address.ip(), false) else { return Some(address) };
    let (key, value, why) = (cursor.key(), address.ip().to_string(), why.to_owned());
    out.add(cursor.span(), Problem::UnusableAddress { key, value, why });
    None
}

fn host_and_port(cursor: &Cursor<'_>, out: &mut Problems) -> Option<(String, u16)> {
    let problem = |key, value| Problem::BadDnsName { key, value };
    let text = cursor.string_that(is_host_and_port, problem, out)?.into_inner();
    let (name, port) = text.rsplit_once(':')?;
    Some((name.to_owned(), port.parse().ok()?))
}

/// `http://host:port`, without the slash that may follow.
fn url(cursor: &Cursor<'_>, out: &mut Problems) -> Option<String> {
    let text = cursor.string(out)?.into_inner();
    let server = |scheme: &str| {
        let rest = text.strip_prefix(scheme)?;
        let server = rest.strip_suffix('/').unwrap_or(rest);
        is_server(server).then(|| format!("{scheme}{server}"))
    };
    if server("https://").is_some() {
        cursor.not_available(Some(&text), out);
        return None;
    }
    let url = server("http://");
    if url.is_none() {
        out.add(cursor.span(), Problem::BadUrl { key: cursor.key(), value: quoted(&text) });
    }
    url
}

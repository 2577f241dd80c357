//! `vrrpd status` for people: what the API says as plain text.

use std::fmt::Write;

use serde::Deserialize;

/// The part of `GET /v1/status` that is shown.
#[derive(Clone, Debug, Deserialize)]
pub struct Status {
    node: String,
    peer: String,
    version: String,
    uptime_s: u64,
    status_age_ms: u64,
    config_hash: String,
    peer_link: PeerLink,
    maintenance: bool,
    lbd: String,
    instances: Vec<Instance>,
}

#[derive(Clone, Debug, Deserialize)]
struct PeerLink {
    configured: bool,
    alive: bool,
    last_heard_ms_ago: Option<u64>,
    same_config: Option<bool>,
    config_hash: Option<String>,
    version: Option<String>,
    #[serde(default)]
    same_version: Option<bool>,
}

#[derive(Clone, Debug, Deserialize)]
struct Instance {
    name: String,
    role: String,
    since_unix_ms: u64,
    interface: String,
    vrid: u8,
    priority: u8,
    effective_priority: u8,
    reasons: Vec<String>,
    vips: Vec<String>,
    routers: Vec<Router>,
}

#[derive(Clone, Debug, Deserialize)]
struct Router {
    family: String,
    role: String,
    #[serde(default)]
    provisional: bool,
    advert_interval_ms: u64,
    last_advert_from: Option<String>,
    last_advert_priority: Option<u8>,
    last_advert_ms_ago: Option<u64>,
    peer_role: Option<String>,
    transitions: u64,
    lateness_max_us: u64,
}

/// The state as text, with a line end. `now_unix_ms` is the wall clock's time.
#[must_use]
pub fn render(status: &Status, now_unix_ms: u64) -> String {
    let mut out = String::new();
    head(&mut out, status);
    let mut rows =
        vec![["INSTANCE", "ROLE", "FOR", "PRIORITY", "INTERFACE", "VRID", "VIRTUAL IPS"].map(str::to_owned)];
    for instance in &status.instances {
        let Instance { priority, effective_priority, .. } = instance;
        let priority = if priority == effective_priority {
            priority.to_string()
        } else {
            format!("{effective_priority} (of {priority})")
        };
        rows.push([
            instance.name.clone(),
            instance.role.clone(),
            span(now_unix_ms.saturating_sub(instance.since_unix_ms) / 1000),
            priority,
            instance.interface.clone(),
            instance.vrid.to_string(),
            instance.vips.join(" "),
        ]);
    }
    out.push('\n');
    table(&mut out, &rows);
    out.push('\n');
    for instance in &status.instances {
        details(&mut out, instance);
    }
    out
}

fn head(out: &mut String, status: &Status) {
    // Writing to a string cannot fail.
    writeln!(
        out,
        "node {}, peer {}, vrrpd {}, up {}, configuration {}",
        status.node,
        status.peer,
        status.version,
        span(status.uptime_s),
        status.config_hash
    )
    .ok();
    writeln!(out, "peer link: {}", peer_link(&status.peer_link)).ok();
    writeln!(out, "lbd: {}, maintenance: {}", status.lbd, if status.maintenance { "on" } else { "off" }).ok();
    if status.status_age_ms > 1000 {
        writeln!(out, "warning: this state is {} ms old, the real-time loop may hang", status.status_age_ms)
            .ok();
    }
}

fn peer_link(link: &PeerLink) -> String {
    if !link.configured {
        return "not configured".to_owned();
    }
    let heard =
        link.last_heard_ms_ago.map_or_else(|| "never heard".to_owned(), |ms| format!("heard {ms} ms ago"));
    let config = match (link.same_config, &link.config_hash) {
        (Some(true), _) => ", same configuration".to_owned(),
        (Some(false), Some(hash)) => format!(", OTHER configuration {hash}"),
        (Some(false), None) => ", OTHER configuration".to_owned(),
        (None, _) => String::new(),
    };
    let release = if link.same_version == Some(false) { "OTHER release" } else { "vrrpd" };
    let version = link.version.as_ref().map_or_else(String::new, |version| format!(", {release} {version}"));
    format!("{}, {heard}{config}{version}", if link.alive { "alive" } else { "down" })
}

fn details(out: &mut String, instance: &Instance) {
    let name = &instance.name;
    if !instance.reasons.is_empty() {
        writeln!(out, "{name}: priority lowered by {}", instance.reasons.join(", ")).ok();
    }
    for router in &instance.routers {
        write!(
            out,
            "{name} {}: {}, adverts every {} ms",
            router.family, router.role, router.advert_interval_ms
        )
        .ok();
        if let (Some(from), Some(priority), Some(ago)) =
            (&router.last_advert_from, router.last_advert_priority, router.last_advert_ms_ago)
        {
            write!(out, ", last one from {from} (priority {priority}) {ago} ms ago").ok();
        }
        if let Some(role) = &router.peer_role {
            write!(out, ", peer is {role}").ok();
        }
        if router.provisional {
            out.push_str(", gives way once it hears it");
        }
        let late_ms = std::time::Duration::from_micros(router.lateness_max_us).as_secs_f64() * 1000.0;
        writeln!(out, ", {} transitions, at most {late_ms:.3} ms late", router.transitions).ok();
    }
}

/// Columns as wide as their widest cell, without trailing spaces.
fn table<const COLUMNS: usize>(out: &mut String, rows: &[[String; COLUMNS]]) {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; COLUMNS] = std::array::from_fn(width);
    for row in rows {
        let cells: Vec<_> = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        out.push_str(cells.join("  ").trim_end());
        out.push('\n');
    }
}

/// A number of seconds with its two largest units.
fn span(seconds: u64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    if days > 0 {
        format!("{days}d {}h", hours % 24)
    } else if hours > 0 {
        format!("{hours}h {}m", minutes % 60)
    } else if minutes > 0 {
        format!("{minutes}m {}s", seconds % 60)
    } else {
        format!("{seconds}s")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_have_two_units() {
        assert_eq!([0, 59, 61, 3_700, 90_000].map(span), ["0s", "59s", "1m 1s", "1h 1m", "1d 1h"]);
    }
}

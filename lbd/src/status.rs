//! `lbd status`, `lbd set` and `lbd reload`: asking the running daemon over its Unix socket.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use common::time::UnixTime;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use lbd_core::group::Admin;
use tokio::net::UnixStream;

use crate::process::socket_path;
use crate::replication::StateView;
use crate::view::{GroupView, ServiceView, Status, TargetView};

/// The daemon answers at once; a reload waits for at most a few seconds.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// The largest answer read, in bytes.
const ANSWER_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Asks the daemon in `run_dir`, and answers status and body.
pub(crate) fn ask(
    run_dir: &Path,
    method: Method,
    path: &str,
    body: String,
) -> anyhow::Result<(StatusCode, String)> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        tokio::time::timeout(ANSWER_TIMEOUT, exchange(run_dir, method, path, body))
            .await
            .map_err(|_| anyhow!("lbd did not answer within {} seconds", ANSWER_TIMEOUT.as_secs()))?
    })
}

async fn exchange(
    run_dir: &Path,
    method: Method,
    path: &str,
    body: String,
) -> anyhow::Result<(StatusCode, String)> {
    let socket = socket_path(run_dir);
    let stream = UnixStream::connect(&socket).await.with_context(|| {
        format!("cannot reach lbd at {}; is it running, and is this its --run-dir?", socket.display())
    })?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(hyper::header::HOST, "lbd")
        .body(Full::<Bytes>::from(body))?;
    let driver = tokio::spawn(connection);
    let answer = sender.send_request(request).await.context("lbd closed the connection without an answer")?;
    let status = answer.status();
    let body = Limited::new(answer.into_body(), ANSWER_BYTES_MAX)
        .collect()
        .await
        .map_err(|error| anyhow!("cannot read lbd's answer: {error}"))?;
    driver.abort();
    Ok((status, String::from_utf8(body.to_bytes().to_vec())?))
}

/// What `lbd status` prints.
pub(crate) fn show(run_dir: &Path, json: bool) -> anyhow::Result<String> {
    let (code, body) = ask(run_dir, Method::GET, "/v1/status", String::new())?;
    if code != StatusCode::OK {
        bail!("lbd answered {code}: {body}");
    }
    if json {
        return Ok(format!("{body}\n"));
    }
    let status: Status = serde_json::from_str(&body).context("cannot read lbd's answer")?;
    Ok(table(&status))
}

/// The running daemon's status.
pub(crate) fn read(run_dir: &Path) -> anyhow::Result<Status> {
    let (_, body) = ask(run_dir, Method::GET, "/v1/status", String::new())?;
    serde_json::from_str(&body).context("cannot read lbd's answer")
}

/// What `lbd reload` prints; an error if the configuration was refused.
pub(crate) fn reload(run_dir: &Path) -> anyhow::Result<String> {
    let (code, body) = ask(run_dir, Method::POST, "/v1/reload", String::new())?;
    let answer: serde_json::Value = serde_json::from_str(&body).context("cannot read lbd's answer")?;
    if code != StatusCode::OK {
        let error = answer.get("error").and_then(serde_json::Value::as_str).unwrap_or(&body);
        bail!("the configuration was not reloaded, the old one stays in use:\n{error}");
    }
    let count = |key: &str| answer.get(key).and_then(serde_json::Value::as_array).map_or(0, Vec::len);
    Ok(format!(
        "reloaded: {} listeners added, {} removed; {} targets added, {} removed\n",
        count("listeners_added"),
        count("listeners_removed"),
        count("targets_added"),
        count("targets_removed"),
    ))
}

/// What `lbd set` changes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Settings {
    /// The state, if it is to change.
    pub(crate) state: Option<Admin>,
    /// The weight, if it is to change.
    pub(crate) weight: Option<Weight>,
}

/// A weight as the command line gives it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Weight {
    /// The configured one.
    Configured,
    /// Another one.
    Of(u16),
}

impl std::str::FromStr for Weight {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "configured" {
            return Ok(Self::Configured);
        }
        let weight = text.parse().ok().filter(|weight| *weight <= 256);
        weight.map(Self::Of).ok_or("it must be a number from 0 to 256, or `configured`")
    }
}

/// What `lbd set` prints; an error if the change was refused.
pub(crate) fn set(run_dir: &Path, name: &str, settings: Settings) -> anyhow::Result<String> {
    let (group, target) = name.split_once('/').with_context(|| {
        format!("{name:?} names no target: write GROUP/TARGET, as `lbd status` shows them")
    })?;
    let mut body = serde_json::Map::new();
    if let Some(state) = settings.state {
        body.insert("state".to_owned(), state.name().into());
    }
    if let Some(weight) = settings.weight {
        let weight = match weight {
            Weight::Configured => serde_json::Value::Null,
            Weight::Of(weight) => weight.into(),
        };
        body.insert("weight".to_owned(), weight);
    }
    let path = format!("/v1/target-groups/{}/targets/{}", escaped(group), escaped(target));
    let (code, body) = ask(run_dir, Method::PATCH, &path, serde_json::Value::from(body).to_string())?;
    if code != StatusCode::OK {
        let answer: serde_json::Value = serde_json::from_str(&body).unwrap_or_default();
        bail!("{}", answer.get("error").and_then(serde_json::Value::as_str).unwrap_or(&body));
    }
    let target: TargetView = serde_json::from_str(&body).context("cannot read lbd's answer")?;
    let open = target.connections_open;
    let mut text = format!("{name}: {}, weight {}, {open} connections open", target.state, target.weight);
    if let Some(ms) = target.closes_in_ms.filter(|_| open > 0) {
        write!(text, " that are closed in {} s", ms.div_ceil(1000))?;
    }
    text.push('\n');
    Ok(text)
}

/// A name as part of a path.
pub(crate) fn escaped(name: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~:@".contains(&byte);
    let escape = |byte: u8| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") };
    name.bytes().map(escape).collect()
}

fn table(status: &Status) -> String {
    let mut text = String::new();
    // Writing into a String cannot fail.
    let written = write_table(&mut text, status);
    debug_assert!(written.is_ok());
    text
}

fn write_table(out: &mut String, status: &Status) -> std::fmt::Result {
    let ready = status.reason.as_deref().unwrap_or("ready");
    writeln!(out, "node      {}, lbd {}, {}: {ready}", status.node, status.version, status.state)?;
    writeln!(
        out,
        "config    {} ({}), up {} s",
        status.config_file, status.config_hash, status.uptime_seconds
    )?;
    writeln!(
        out,
        "workers   {} of {}, {} connections open",
        status.workers_alive, status.workers_expected, status.connections_open
    )?;
    let roles: Vec<String> =
        status.roles.iter().map(|(instance, role)| format!("{instance} {}", role.name())).collect();
    let vrrpd = if status.vrrpd_connected { roles.join(", ") } else { "not connected".to_owned() };
    writeln!(out, "vrrpd     {vrrpd}")?;
    write_peer(out, status)?;
    write_chance(out, status)?;
    let mut rows = vec![
        ["SERVICE", "LISTEN", "GROUP", "TARGETS", "OPEN", "TOTAL", "REFUSED"].map(str::to_owned).to_vec(),
    ];
    for service in &status.services {
        rows.push(vec![
            service.name.clone(),
            service.listen.join(" "),
            service.target_group.clone(),
            format!("{}/{}", service.targets_serving, service.targets),
            service.connections_open.to_string(),
            service.connections_total.to_string(),
            service.refused.values().sum::<u64>().to_string(),
        ]);
    }
    write_rows(out, &rows)?;
    write_certificates(out, status)?;
    write_kernel(out, status)?;
    for group in status.target_groups.iter().filter(|group| group.mode != "normal") {
        writeln!(out, "\nthe target group {} is in the mode {}", group.name, group.mode)?;
    }
    let mut rows = vec![
        ["GROUP", "TARGET", "ADDRESS", "WEIGHT", "STATE", "HEALTH", "SINCE", "OPEN", "TOTAL", "LAST CHECK"]
            .map(str::to_owned)
            .to_vec(),
    ];
    rows.extend(status.target_groups.iter().flat_map(target_rows));
    write_rows(out, &rows)?;
    let found: Vec<_> = status.target_groups.iter().filter_map(discovery_row).collect();
    if found.is_empty() {
        return Ok(());
    }
    let mut rows =
        vec![["GROUP", "FOUND IN", "TARGETS", "LAST GOOD ANSWER", "STATE"].map(str::to_owned).to_vec()];
    rows.extend(found);
    write_rows(out, &rows)
}

/// What services with TLS show to clients, and until when.
fn write_certificates(out: &mut String, status: &Status) -> std::fmt::Result {
    let mut rows = vec![["SERVICE", "CERTIFICATE", "KEY", "EXPIRES", "NAMES"].map(str::to_owned).to_vec()];
    for (service, tls) in status.services.iter().filter_map(|it| Some((&it.name, it.tls.as_ref()?))) {
        rows.extend(tls.certificates.iter().map(|it| {
            let expires = UnixTime::from_nanos(it.not_after_unix_ms.saturating_mul(1_000_000));
            let soon = if it.expires_soon { " (renew it)" } else { "" };
            vec![
                service.clone(),
                it.file.clone(),
                it.key.clone(),
                format!("{expires}{soon}"),
                it.names.join(" "),
            ]
        }));
    }
    if rows.len() > 1 {
        write_rows(out, &rows)?;
    }
    write_orders(out, status)
}

/// Certificates that are ordered, as far as there is something to say of them: they are missing, or the last attempt failed.
fn write_orders(out: &mut String, status: &Status) -> std::fmt::Result {
    let at = |ms: u64| UnixTime::from_nanos(ms.saturating_mul(1_000_000));
    let of = |service: &ServiceView| {
        let view = service.tls.as_ref()?.ordered.clone()?;
        (view.state != "here" || view.failures > 0).then_some((service.name.clone(), view))
    };
    for (service, view) in status.services.iter().filter_map(of) {
        write!(
            out,
            "certificate of {service} for {}: {}",
            view.names.join(" "),
            view.state.replace('_', " ")
        )?;
        if let Some(why) = &view.last_failure {
            write!(out, "; {} attempts failed, the last because {why}", view.failures)?;
        }
        match view.next_order_unix_ms {
            Some(ms) => writeln!(out, "; ordered next at {}", at(ms))?,
            None if view.ordered_here => writeln!(out)?,
            None => writeln!(out, "; the other node orders it")?,
        }
    }
    Ok(())
}

/// Changes that wait for so long are said: in a session they are sent within a few milliseconds.
const LAG_SHOWN_MS: u64 = 1000;

/// How sessions with the other node end where nothing is wrong with them, or what is wrong is said otherwise.
const ENDS_IN_ORDER: [&str; 4] = ["closed", "dropped", "replaced", "stopped"];

/// The link to the other node, and what is wrong with it.
fn write_peer(out: &mut String, status: &Status) -> std::fmt::Result {
    let at = |ms: u64| UnixTime::from_nanos(ms.saturating_mul(1_000_000));
    let Some(link) = &status.replication.link else {
        let why = status.replication.off_because.as_deref().unwrap_or("unknown to this lbd");
        return writeln!(out, "peer      none: {why}");
    };
    match (link.connected_since_unix_ms, &link.connected_by) {
        (Some(since), Some(by)) => {
            let (address, peer) = (&link.peer_address, &link.peer);
            writeln!(out, "peer      connected to {peer} ({address}) since {}, by {by}", at(since))?;
        }
        _ => {
            writeln!(out, "peer      not connected to {} ({})", link.peer, link.peer_address)?;
            if let Some(last) = &link.last_failure {
                writeln!(out, "          {}: {}", at(last.unix_ms), last.message)?;
            }
        }
    }
    if let Some(state) = &status.replication.state {
        write_replication(out, status, state)?;
    }
    if let Some(error) = &link.listen_error {
        writeln!(out, "          {error}")?;
    }
    if let Some(broken) = counts_but(&link.ended, &ENDS_IN_ORDER) {
        write!(out, "          sessions that broke: {broken}")?;
        match &link.last_end {
            Some(last) => {
                writeln!(out, "; the last session ended at {}: {}", at(last.unix_ms), last.message)?;
            }
            None => writeln!(out)?,
        }
    }
    if let Some(last) = &link.last_refusal {
        let refused: u64 = link.refused.values().sum();
        writeln!(
            out,
            "          {refused} connections refused, the last at {}: {}",
            at(last.unix_ms),
            last.message
        )?;
    }
    Ok(())
}

/// What went over it.
fn write_replication(out: &mut String, status: &Status, state: &StateView) -> std::fmt::Result {
    let count = |table: &str, what: &str| {
        let count = state.entries.get(table).copied().unwrap_or(0);
        (count > 0 || table == "flows").then(|| format!("{count} {what}"))
    };
    let shared = [
        count("flows", "flows"),
        count("sticky", "sticky clients"),
        count("udp_sessions", "UDP sessions"),
        count("targets", "words on targets"),
        count("members", "words on who belongs to groups"),
    ];
    let shared: Vec<String> = shared.into_iter().flatten().collect();
    let refused: u64 = state.refused.values().sum();
    let back = if state.peer_synced { "" } else { ", the other node is not" };
    let waiting = state.dirty;
    writeln!(
        out,
        "          {}{back}; {} of both, {waiting} changes to be sent",
        state.state,
        shared.join(", ")
    )?;
    if refused > 0 {
        writeln!(
            out,
            "          {refused} entries of the other node's had no place here: compare the files"
        )?;
    }
    if state.peer_refused > 0 {
        let tables = state.sizes_differ.join(", ");
        let sizes = if tables.is_empty() { tables } else { format!(" (tables of another size: {tables})") };
        writeln!(
            out,
            "          {} entries of this node's had no place on the other one{sizes}: compare the files",
            state.peer_refused
        )?;
    }
    if state.config_differs == Some(true) {
        let other = state.peer_config_hash.as_deref().unwrap_or_default();
        writeln!(out, "          the other node runs another configuration, {other}: compare the files")?;
    }
    if state.lag_ms >= LAG_SHOWN_MS {
        let seconds = state.lag_ms / 1000;
        writeln!(out, "          the other node has not been told of changes for {seconds} s")?;
    }
    if state.version_differs == Some(true) {
        let (other, own) = (state.peer_version.as_deref().unwrap_or_default(), &status.version);
        writeln!(out, "          the other node runs another release, {other}, this one {own}")?;
    }
    if let Some(refused) = counts_but(&state.ended, &["disconnected"]) {
        writeln!(out, "          sessions that ended for what was said or not said: {refused}")?;
    }
    if let Some(trouble) = &state.trouble {
        writeln!(out, "          flows are not replicated: {trouble}")?;
    }
    Ok(())
}

/// The counts that are not zero, with their names, but for some of them; none if there are no others.
fn counts_but(counts: &BTreeMap<String, u64>, but: &[&str]) -> Option<String> {
    let counts = counts.iter().filter(|(name, count)| **count > 0 && !but.contains(&name.as_str()));
    let counts: Vec<String> = counts.map(|(name, count)| format!("{count} {name}")).collect();
    (!counts.is_empty()).then(|| counts.join(", "))
}

/// What becomes of proxied connections when their virtual IPs move.
fn write_chance(out: &mut String, status: &Status) -> std::fmt::Result {
    let Some(chance) = &status.second_chance else { return Ok(()) };
    if let Some(why) = &chance.off_because {
        return writeln!(out, "draining  no: connections do not survive a move of their virtual IPs, {why}");
    }
    for (instance, it) in &chance.instances {
        let (here, sessions, there) = (it.draining, it.draining_sessions, it.draining_by_peer);
        let sessions =
            if sessions > 0 { format!(" ({sessions} of them UDP sessions)") } else { String::new() };
        let way = if it.way == "tunnel" { " (no neighbour there: by tunnel)" } else { "" };
        writeln!(
            out,
            "draining  {instance}: {here} connections here{sessions}, {there} on the other node{way}"
        )?;
    }
    for trouble in &chance.troubles {
        writeln!(out, "          {}: {}", trouble.what, trouble.why)?;
    }
    Ok(())
}

/// What the kernel forwards, if it does.
fn write_kernel(out: &mut String, status: &Status) -> std::fmt::Result {
    let Some(kernel) = &status.kernel else { return Ok(()) };
    writeln!(
        out,
        "\nthe kernel (Linux {}) forwards {} flows of at most {}",
        kernel.kernel, kernel.flows, kernel.flows_max
    )?;
    for it in &kernel.interfaces {
        writeln!(out, "  on {} by {} ({}), for {}", it.name, it.attached, it.why, it.purpose)?;
    }
    if kernel.attached_again > 0 {
        writeln!(out, "  taken off by somebody else and attached again {} times", kernel.attached_again)?;
    }
    for trouble in &kernel.troubles {
        writeln!(out, "  {}: {}", trouble.what, trouble.why)?;
    }
    let mut rows = vec![
        ["SERVICE", "FLOWS", "NEW", "PACKETS IN", "PACKETS OUT", "BYTES IN", "BYTES OUT"]
            .map(str::to_owned)
            .to_vec(),
    ];
    for (name, sum) in status.services.iter().filter_map(|it| Some((&it.name, it.kernel?))) {
        let numbers = [
            sum.flows,
            sum.new_flows,
            sum.packets_to_target,
            sum.packets_to_client,
            sum.bytes_to_target,
            sum.bytes_to_client,
        ];
        rows.push(std::iter::once(name.clone()).chain(numbers.map(|number| number.to_string())).collect());
    }
    write_rows(out, &rows)
}

/// Where a group's targets are found, if they are.
fn discovery_row(group: &GroupView) -> Option<Vec<String>> {
    let discovery = group.discovery.as_ref()?;
    let at = |ms: u64| UnixTime::from_nanos(ms.saturating_mul(1_000_000)).to_string();
    // Of an error that shows lines of a file, the first one says what it is.
    let why =
        discovery.last_failure.as_ref().and_then(|last| last.message.lines().next()).unwrap_or_default();
    Some(vec![
        group.name.clone(),
        discovery.source.clone(),
        discovery.targets.to_string(),
        discovery.last_success_unix_ms.map_or_else(|| "never".to_owned(), at),
        match discovery.over_limit {
            _ if discovery.stale => format!("stale: {why}"),
            0 => "ok".to_owned(),
            over_limit => format!("ok, {over_limit} more than max_targets left out"),
        },
    ])
}

fn target_rows(group: &GroupView) -> Vec<Vec<String>> {
    let row = |target: &TargetView| {
        let since = UnixTime::from_nanos(target.since_unix_ms.saturating_mul(1_000_000));
        vec![
            group.name.clone(),
            target.id.clone(),
            target.address.to_string(),
            target.weight.to_string(),
            state(target),
            health(target),
            since.to_string(),
            target.connections_open.to_string(),
            target.connections_total.to_string(),
            target.last_check.as_ref().map_or_else(
                || "-".to_owned(),
                |check| match check.vip.filter(|_| check.result == "ok") {
                    Some(vip) => format!("ok through {vip} ({} µs)", check.latency_us),
                    None => format!("{} ({} µs)", check.result, check.latency_us),
                },
            ),
        ]
    };
    group.targets.iter().map(row).collect()
}

/// What a target's checks say, and what those of the other node do if that is something else.
fn health(target: &TargetView) -> String {
    match target.peer_health.as_ref().filter(|other| **other != target.health) {
        Some(other) => format!("{} (other node: {other})", target.health),
        None => target.health.clone(),
    }
}

/// What a target is doing, in a word or two.
fn state(target: &TargetView) -> String {
    match (target.slow_start_percent, target.ejected_until_unix_ms, target.closes_in_ms) {
        (Some(percent), _, _) => format!("{} {percent}%", target.reason),
        (_, Some(ms), _) => {
            let until = UnixTime::from_nanos(ms.saturating_mul(1_000_000));
            format!("{} until {until} ({} in a row)", target.reason, target.ejections_in_a_row)
        }
        (_, _, Some(ms)) if ms > 0 => format!("{} {} s", target.reason, ms.div_ceil(1000)),
        _ => target.reason.clone(),
    }
}

/// Rows in columns as wide as their widest cell.
pub(crate) fn write_rows(out: &mut String, rows: &[Vec<String>]) -> std::fmt::Result {
    writeln!(out)?;
    let columns = rows.first().map_or(0, Vec::len);
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    for row in rows {
        let cells: Vec<String> =
            row.iter().zip(&widths).map(|(cell, &width)| format!("{cell:width$}")).collect();
        writeln!(out, "{}", cells.join("  ").trim_end())?;
    }
    Ok(())
}

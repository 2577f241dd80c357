//! Checks within one `[[target_group]]`, and building it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::{first_use, in_folder, tls, unique_names};
use crate::config::diag::{Problems, quoted};
use crate::config::problem::Problem;
use crate::config::raw::{RawFile, RawGroup, RawTarget};
use crate::config::types::{
    Algorithm, Discover, DiscoverSource, Health, HealthCheck, Target, TargetGroup, Via,
};

pub(super) fn check(raw: &RawFile, out: &mut Problems) {
    unique_names("target_group.name", raw.groups.iter().filter_map(|group| group.name.as_ref()), out);
    for group in &raw.groups {
        check_targets("target_group.targets", &group.targets, out);
        check_backups(group, out);
        check_queue(group, out);
        check_zones(group, raw, out);
    }
}

/// Notes targets that have an address or an id in common.
pub(super) fn check_targets(key: &str, targets: &[RawTarget], out: &mut Problems) {
    let (mut ids, mut addresses) = (BTreeMap::new(), BTreeMap::new());
    for target in targets {
        if let Some(address) = &target.address
            && let Some(first) = first_use(&mut addresses, *address.get_ref(), address.span())
        {
            let (key, address_text) = (format!("{key}.address"), address.get_ref().to_string());
            let problem = Problem::DuplicateTarget { key, address: address_text };
            out.add(address.span(), problem).related(first, "first listed here");
            if !target.has_id {
                continue;
            }
        }
        if let Some(id) = target.known_id()
            && let Some(first) = first_use(&mut ids, id.get_ref().clone(), id.span())
        {
            let problem = Problem::DuplicateTargetId { key: format!("{key}.id"), id: quoted(id.get_ref()) };
            out.add(id.span(), problem).related(first, "first used here");
        }
    }
}

/// Whether the targets written are all there can be: what they lack, the group lacks.
pub(super) fn all_known(group: &RawGroup) -> bool {
    group.targets_complete && !group.has_discover && !group.targets.is_empty()
}

fn check_backups(group: &RawGroup, out: &mut Problems) {
    if all_known(group) && group.targets.iter().all(|target| target.backup) {
        out.add(group.targets_span.clone(), Problem::OnlyBackups {});
    }
}

fn check_queue(group: &RawGroup, out: &mut Problems) {
    let Some(queue) = &group.queue else { return };
    if all_known(group) && !group.targets.iter().any(|target| target.max_connections_span.is_some()) {
        let (key, needs) = ("target_group.queue".to_owned(), "max_connections of a target".to_owned());
        out.add(queue.span(), Problem::KeyWithout { key, needs });
    }
}

fn check_zones(group: &RawGroup, raw: &RawFile, out: &mut Problems) {
    let Some(cross_zone) = group.cross_zone.as_ref().filter(|cross_zone| !cross_zone.get_ref()) else {
        return;
    };
    let without = |needs: &str| Problem::KeyWithout {
        key: "target_group.cross_zone = false".to_owned(),
        needs: needs.to_owned(),
    };
    if !raw.nodes.iter().any(|node| node.has_zone) {
        out.add(cross_zone.span(), without("the zone of a [[node]]"));
    }
    if all_known(group) && !group.targets.iter().any(|target| target.has_zone) {
        out.add(cross_zone.span(), without("the zone of a target"));
    }
}

pub(super) fn build_targets(targets: &[RawTarget]) -> Option<Vec<Target>> {
    let targets = targets.iter().map(|target| {
        Some(Target {
            id: target.known_id()?.into_inner(),
            address: *target.address.as_ref()?.get_ref(),
            weight: target.weight,
            backup: target.backup,
            zone: target.zone.as_ref().map(|zone| zone.get_ref().clone()),
            max_connections: target.max_connections,
        })
    });
    targets.collect()
}

/// Groups of the services that the kernel forwards.
pub(super) struct InKernel<'r> {
    /// All of them.
    pub(super) all: BTreeSet<&'r str>,
    /// Those that only services of mode `dsr` forward to.
    pub(super) only_dsr: BTreeSet<&'r str>,
}

pub(super) fn build(raw: &RawGroup, in_kernel: &InKernel<'_>, folder: &Path) -> Option<TargetGroup> {
    let name = raw.name.as_ref()?.get_ref().clone();
    let default =
        if in_kernel.all.contains(name.as_str()) { Algorithm::FlowHash } else { Algorithm::default() };
    let usual = if in_kernel.only_dsr.contains(name.as_str()) { Via::Vip } else { Via::Target };
    let via = raw.via.as_ref().map_or(usual, |via| *via.get_ref());
    Some(TargetGroup {
        name,
        algorithm: raw.algorithm.as_ref().map_or(default, |algorithm| *algorithm.get_ref()),
        hash_by: raw.hash_by.as_ref().map(|by| by.get_ref().clone()).unwrap_or_default(),
        targets: build_targets(&raw.targets)?,
        discover: raw.discover.clone().map(|discover| discover_in(folder, discover)),
        health: raw.health.clone().map(|health| Health { via, ..health_in(folder, health) }),
        eject: raw.eject,
        panic_percent: raw.panic_percent,
        sticky: raw.sticky.as_ref().map(|sticky| sticky.get_ref().clone()),
        slow_start: raw.slow_start,
        drain_timeout: raw.drain_timeout,
        retry: raw.retry,
        queue: raw.queue.as_ref().map(|queue| *queue.get_ref()),
        keep_alive: raw.keep_alive.as_ref().map(|keep_alive| *keep_alive.get_ref()).unwrap_or_default(),
        send_proxy: raw.send_proxy.as_ref().map(|version| *version.get_ref()),
        cross_zone: raw.cross_zone.as_ref().is_none_or(|cross_zone| *cross_zone.get_ref()),
        tls: raw.tls.as_ref().map(|raw| tls::of_targets(raw, folder)),
        http2: raw.http2.as_ref().is_some_and(|http2| *http2.get_ref()),
    })
}

fn discover_in(folder: &Path, mut discover: Discover) -> Discover {
    if let DiscoverSource::File(path) = &mut discover.source {
        *path = in_folder(folder, &*path);
    }
    discover
}

fn health_in(folder: &Path, mut health: Health) -> Health {
    let ca_file: Option<&mut PathBuf> = match &mut health.check {
        HealthCheck::Tls { ca_file, .. }
        | HealthCheck::Http { ca_file, .. }
        | HealthCheck::Grpc { ca_file, .. } => ca_file.as_mut(),
        HealthCheck::Tcp | HealthCheck::Udp { .. } => None,
    };
    if let Some(path) = ca_file {
        *path = in_folder(folder, &*path);
    }
    health
}

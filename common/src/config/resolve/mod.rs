//! What the values say about each other; and the `Config` they make when nothing is wrong.

mod instance;
mod link;
mod nodes;
mod service;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::diag::{Problems, Span, quoted};
use super::problem::Problem;
use super::raw::{At, RawApi, RawFile, RawGroup, RawPair};
use super::types::{Algorithm, Api, Config, Pair, Target, TargetGroup};

use self::nodes::Nodes;

/// Checks everything that takes more than one value, and builds the configuration. What is missing or wrong in `raw`
/// has been noted already; the result is only used when nothing was noted at all.
pub(super) fn resolve(raw: &RawFile, text: &str, file: &Path, out: &mut Problems) -> Option<Config> {
    let folder = file.parent().unwrap_or(Path::new(""));
    let nodes = Nodes::check(&raw.nodes, &raw.vrrp, out);
    instance::check_each(raw, &nodes, out);
    link::check(raw, &nodes, out);
    unique_names("target_group.name", raw.groups.iter().filter_map(|group| group.name.as_ref()), out);
    for group in &raw.groups {
        check_targets(group, out);
    }
    let api = api(&raw.api, folder, out);
    let listen = service::check(raw, &api, out);
    if out.count() == 0 && raw.vrrp.is_empty() && raw.services.is_empty() && raw.groups.is_empty() {
        out.add(0..0, Problem::NothingAsked {});
    }
    if out.count() > 0 {
        return None;
    }
    Some(Config {
        pair: pair(&raw.pair, folder),
        nodes: nodes.build(),
        vrrp: raw.vrrp.iter().map(|vrrp| instance::build(vrrp, raw, &nodes)).collect::<Option<_>>()?,
        services: service::build(raw, listen)?,
        target_groups: raw.groups.iter().map(group).collect::<Option<_>>()?,
        api,
        hash: hash(text),
    })
}

/// The first 8 bytes of SHA-256, most significant first.
fn hash(text: &str) -> u64 {
    let digest: [u8; 32] = Sha256::digest(text.as_bytes()).into();
    digest[..8].iter().fold(0, |hash, byte| hash << 8 | u64::from(*byte))
}

fn pair(raw: &RawPair, folder: &Path) -> Pair {
    Pair {
        name: raw.name.as_ref().map(|name| name.get_ref().clone()).unwrap_or_default(),
        key_file: raw.key_file.as_ref().map(|path| in_folder(folder, path)),
    }
}

fn in_folder(folder: &Path, path: &At<String>) -> PathBuf {
    folder.join(path.get_ref())
}

fn api(raw: &RawApi, folder: &Path, out: &mut Problems) -> Api {
    let vrrpd = raw.vrrpd.as_ref().map_or(Api::VRRPD, |address| *address.get_ref());
    let lbd = raw.lbd.as_ref().map_or(Api::LBD, |address| *address.get_ref());
    if vrrpd == lbd {
        // The defaults differ, so at least one of them is written.
        let spans = [&raw.lbd, &raw.vrrpd].map(|address| address.as_ref().map(At::span));
        let problem = Problem::ApiSameAddress { address: lbd.to_string() };
        match spans {
            [Some(lbd), Some(vrrpd)] => {
                out.add(lbd, problem).related(vrrpd, "vrrpd's address");
            }
            [Some(place), None] | [None, Some(place)] => {
                out.add(place, problem);
            }
            [None, None] => {}
        }
    }
    Api { vrrpd, lbd, token_file: raw.token_file.as_ref().map(|path| in_folder(folder, path)) }
}

fn check_targets(group: &RawGroup, out: &mut Problems) {
    let (mut ids, mut addresses) = (BTreeMap::new(), BTreeMap::new());
    for target in &group.targets {
        if let Some(address) = &target.address
            && let Some(first) = first_use(&mut addresses, *address.get_ref(), address.span())
        {
            let problem = Problem::DuplicateTarget { address: address.get_ref().to_string() };
            out.add(address.span(), problem).related(first, "first listed here");
            if !target.has_id {
                continue;
            }
        }
        if let Some(id) = target.known_id()
            && let Some(first) = first_use(&mut ids, id.get_ref().clone(), id.span())
        {
            let problem = Problem::DuplicateTargetId { id: quoted(id.get_ref()) };
            out.add(id.span(), problem).related(first, "first used here");
        }
    }
}

fn group(raw: &RawGroup) -> Option<TargetGroup> {
    let targets = raw.targets.iter().map(|target| {
        Some(Target {
            id: target.known_id()?.into_inner(),
            address: *target.address.as_ref()?.get_ref(),
            weight: target.weight,
        })
    });
    Some(TargetGroup {
        name: raw.name.as_ref()?.get_ref().clone(),
        algorithm: Algorithm::RoundRobin,
        targets: targets.collect::<Option<_>>()?,
        health: raw.health.clone(),
        retry: raw.retry,
        drain_timeout: raw.drain_timeout,
    })
}

/// Notes every name but the first of its kind.
fn unique_names<'n>(key: &str, names: impl Iterator<Item = &'n At<String>>, out: &mut Problems) {
    let mut seen = BTreeMap::new();
    for name in names {
        if let Some(first) = first_use(&mut seen, name.get_ref(), name.span()) {
            let problem = Problem::DuplicateName { key: key.to_owned(), name: quoted(name.get_ref()) };
            out.add(name.span(), problem).related(first, "first used here");
        }
    }
}

/// Where the key was seen before, if it was.
fn first_use<K: Ord>(seen: &mut BTreeMap<K, Span>, key: K, span: Span) -> Option<Span> {
    let first = seen.get(&key).cloned();
    if first.is_none() {
        seen.insert(key, span);
    }
    first
}

//! What the values say about each other; and the `Config` they make when nothing is wrong.

mod acme;
mod auth;
mod cookies;
mod group;
mod http;
mod instance;
mod kernel;
mod link;
mod listen;
mod nodes;
mod service;
mod tls;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::diag::{Problems, Span, quoted};
use super::problem::Problem;
use super::raw::{At, RawFile, RawPair, RawTarget};
use super::types::{Config, Pair, Target};

use self::nodes::Nodes;

/// Checks everything that takes more than one value, and builds the configuration. What is missing or wrong in `raw`
/// has been noted already; the result is only used when nothing was noted at all.
pub(super) fn resolve(raw: &RawFile, text: &str, file: &Path, out: &mut Problems) -> Option<Config> {
    let folder = file.parent().unwrap_or(Path::new(""));
    let nodes = Nodes::check(&raw.nodes, &raw.vrrp, out);
    instance::check_each(raw, &nodes, out);
    link::check(raw, &nodes, out);
    group::check(raw, out);
    service::check(raw, out);
    tls::check(raw, out);
    let api = listen::api(&raw.api, folder, out);
    let listen = listen::check(raw, &api, out);
    kernel::check(raw, &nodes, &listen, out);
    acme::check(raw, &listen, out);
    if out.count() == 0 && raw.vrrp.is_empty() && raw.services.is_empty() {
        out.add(0..0, Problem::NothingAsked {});
    }
    if out.count() > 0 {
        return None;
    }
    let in_kernel = kernel::groups(raw);
    let groups = raw.groups.iter().map(|group| group::build(group, &in_kernel, folder));
    Some(Config {
        pair: pair(&raw.pair, folder),
        nodes: nodes.build(),
        vrrp: raw.vrrp.iter().map(|vrrp| instance::build(vrrp, raw, &nodes)).collect::<Option<_>>()?,
        services: service::build(raw, listen, folder)?,
        target_groups: groups.collect::<Option<_>>()?,
        kernel: kernel::build(&raw.kernel),
        acme: raw.acme.as_ref().map(|acme| acme::build(acme, folder)),
        api,
        hash: hash(text),
    })
}

/// Checks what the targets of a file of their own say about each other.
pub(super) fn resolve_targets(raw: &[RawTarget], out: &mut Problems) -> Option<Vec<Target>> {
    group::check_targets("targets", raw, out);
    if out.count() > 0 {
        return None;
    }
    group::build_targets(raw)
}

/// The first 8 bytes of SHA-256, most significant first.
fn hash(text: &str) -> u64 {
    let digest: [u8; 32] = Sha256::digest(text.as_bytes()).into();
    digest[..8].iter().fold(0, |hash, byte| hash << 8 | u64::from(*byte))
}

fn pair(raw: &RawPair, folder: &Path) -> Pair {
    Pair {
        name: raw.name.as_ref().map(|name| name.get_ref().clone()).unwrap_or_default(),
        key_file: raw.key_file.as_ref().map(|path| in_folder(folder, path.get_ref())),
    }
}

/// Relative paths start at the file's folder.
fn in_folder(folder: &Path, path: impl AsRef<Path>) -> PathBuf {
    folder.join(path)
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

//! TLS as services and target groups have it: their certificates, authorities, pins and tickets, read with the configuration.
//!
//! The connections themselves are in [`crate::l7`]; which certificate a client gets and what certificates say, in `lbd_core::tls`.

mod failure;
mod files;
mod origin;
mod termination;
mod tickets;

use std::collections::HashMap;
use std::sync::Arc;

use common::config::{Config, FileAt, load_key};
use common::key::PairKey;
use rustls::crypto::{CryptoProvider, aws_lc_rs};

use crate::clock::unix_now;

pub(crate) use failure::Failure;
pub(crate) use files::read_file;
pub(crate) use origin::{Origin, TargetVerifier, client_config};
pub(crate) use termination::{Chosen, Protocol, Termination, chosen, fingerprint};

/// For so long before its end a certificate is spoken of.
pub(crate) const EXPIRES_SOON_SECONDS: i64 = 30 * 86_400;

/// The TLS of a configuration.
#[derive(Clone, Debug, Default)]
pub(crate) struct TlsSet {
    services: HashMap<String, Arc<Termination>>,
    groups: HashMap<String, Arc<Origin>>,
}

/// What is wrong with a file.
#[derive(Debug)]
pub(super) struct Wrong {
    file: FileAt,
    why: String,
    /// Whether it can be used all the same: a certificate that has expired is still better than none for all other sites.
    usable: bool,
}

impl Wrong {
    fn unusable(file: &FileAt, why: impl Into<String>) -> Self {
        Self { file: file.clone(), why: why.into(), usable: false }
    }

    fn doubtful(file: &FileAt, why: impl Into<String>) -> Self {
        Self { file: file.clone(), why: why.into(), usable: true }
    }
}

impl TlsSet {
    /// Of the service of this name.
    pub(crate) fn service(&self, name: &str) -> Option<Arc<Termination>> {
        self.services.get(name).map(Arc::clone)
    }

    /// Of the target group of this name.
    pub(crate) fn group(&self, name: &str) -> Option<Arc<Origin>> {
        self.groups.get(name).map(Arc::clone)
    }

    /// Reads all that the configuration names. What is the same as `before` is kept, so that connections to targets are, too.
    fn read(config: &Config, secret: &PairKey, before: &Self) -> (Self, Vec<Wrong>) {
        let mut set = Self::default();
        let mut wrong = Vec::new();
        let provider = provider();
        let now = now_seconds();
        let secret = match load_key(&config.pair) {
            Ok(key) => key.unwrap_or_else(|| secret.clone()),
            Err(error) => {
                if config.services.iter().any(|it| it.http.as_ref().is_some_and(|http| http.tls.is_some())) {
                    tracing::warn!(%error, "TLS clients cannot go on with their sessions at the other node");
                }
                secret.clone()
            }
        };
        for service in &config.services {
            let Some(http) = &service.http else { continue };
            let Some(tls) = &http.tls else { continue };
            let offered = Protocol::offered(http.http2);
            let made = Termination::read(&service.name, tls, offered, &provider, &secret, now, &mut wrong);
            set.services.extend(made.map(|made| (service.name.clone(), Arc::new(made))));
        }
        for group in &config.target_groups {
            let Some(tls) = &group.tls else { continue };
            let Some(made) = Origin::read(tls, Protocol::of(group.http2), &provider, &mut wrong) else {
                continue;
            };
            let same = before.groups.get(&group.name).filter(|before| before.is_as(&made));
            let made = same.map_or_else(|| Arc::new(made), Arc::clone);
            set.groups.insert(group.name.clone(), made);
        }
        (set, wrong)
    }
}

/// Reads the files that the TLS of a configuration needs. `secret` is what tickets are made with where there is no pair's key; what is the same
/// as `before` is kept. Answers also what is wrong; what can be used all the same is in the log.
pub(crate) fn read(config: &Config, secret: &PairKey, before: &TlsSet) -> (TlsSet, Vec<(FileAt, String)>) {
    let (set, wrong) = TlsSet::read(config, secret, before);
    let (usable, unusable): (Vec<Wrong>, Vec<Wrong>) = wrong.into_iter().partition(|it| it.usable);
    for Wrong { file, why, .. } in usable {
        tracing::warn!(file = %file.path.display(), key = file.key, "{why}");
    }
    for (service, site) in
        set.services.iter().flat_map(|(name, it)| it.sites.iter().map(move |site| (name, site)))
    {
        if let Some(days) = site.expires_within(EXPIRES_SOON_SECONDS) {
            tracing::warn!(service, file = %site.file.display(), days, "this certificate expires soon");
        }
    }
    (set, unusable.into_iter().map(|it| (it.file, it.why)).collect())
}

/// The same for somebody who wants to know everything that is wrong, and which certificates expire soon.
pub(crate) fn examine(config: &Config) -> (Vec<String>, Vec<(FileAt, String)>) {
    let (set, wrong) = TlsSet::read(config, &PairKey::new([0; 32]), &TlsSet::default());
    let mut notes: Vec<String> = Vec::new();
    for site in set.services.values().flat_map(|it| &it.sites) {
        if let Some(days) = site.expires_within(EXPIRES_SOON_SECONDS) {
            notes.push(format!("the certificate {} expires in {days} days", site.file.display()));
        }
    }
    notes.sort();
    notes.dedup();
    (notes, wrong.into_iter().map(|it| (it.file, it.why)).collect())
}

/// What the keys, the ciphers and the hashes are made by.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

/// The wall clock, in seconds since 1970, as certificates have it.
pub(crate) fn now_seconds() -> i64 {
    i64::try_from(unix_now().as_millis() / 1000).unwrap_or(i64::MAX)
}

//! TLS as services and target groups have it: their certificates, authorities, pins and tickets, read with the configuration.
//!
//! The connections themselves are in [`crate::l7`]; which certificate a client gets and what certificates say, in `lbd_core::tls`.

mod failure;
mod files;
mod ordered;
mod origin;
mod termination;
mod tickets;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use common::config::{Config, FileAt, load_key};
use common::key::PairKey;
use lbd_core::acme::Names;
use rustls::ClientConfig;
use rustls::crypto::{CryptoProvider, aws_lc_rs};

use crate::clock::unix_now;

pub(crate) use failure::Failure;
pub(crate) use files::read_file;
pub(crate) use ordered::{Slot, bundle_path, read_bundle, read_bundle_text};
pub(crate) use origin::{Origin, TargetVerifier, client_config};
pub(crate) use termination::{Chosen, NO_HTTP2, Protocol, Termination, chosen, fingerprint};

/// For so long before its end a certificate is spoken of.
pub(crate) const EXPIRES_SOON_SECONDS: i64 = 30 * 86_400;

/// The TLS of a configuration.
#[derive(Clone, Debug, Default)]
pub(crate) struct TlsSet {
    services: HashMap<String, Arc<Termination>>,
    groups: HashMap<String, Arc<Origin>>,
    ordered: BTreeMap<Names, Arc<Slot>>,
    directory: Option<Arc<ClientConfig>>,
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

    /// The places of the certificates that are ordered.
    pub(crate) fn ordered(&self) -> impl Iterator<Item = &Arc<Slot>> {
        self.ordered.values()
    }

    /// The place of the certificate for these names.
    pub(crate) fn slot(&self, names: &Names) -> Option<&Arc<Slot>> {
        self.ordered.get(names)
    }

    /// How the directory is spoken with where certificates are ordered; none where nobody is known who could have signed its own.
    pub(crate) fn directory(&self) -> Option<&Arc<ClientConfig>> {
        self.directory.as_ref()
    }

    /// The place of the certificate that a service has ordered, if it does.
    fn order(&mut self, config: &Config, names: &[String], before: &Self) -> Option<Arc<Slot>> {
        let acme = config.acme.as_ref()?;
        let names = Names::new(&acme.directory, names.iter().cloned())?;
        let known = self.ordered.get(&names).or_else(|| before.ordered.get(&names)).map(Arc::clone);
        let slot = known.unwrap_or_else(|| {
            // What another directory has signed is better than nothing until this one has.
            let other = before.ordered.values().find(|slot| slot.names.are_those_of(&names));
            Arc::new(Slot::new(names.clone(), other.and_then(|slot| slot.site())))
        });
        ordered::fill_from_disk(acme, &slot);
        self.ordered.insert(names, Arc::clone(&slot));
        Some(slot)
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
            let slot = set.order(config, &tls.acme, before);
            let means = Means { provider: &provider, secret: &secret, now };
            let made = Termination::read(&service.name, (tls, slot), offered, &means, &mut wrong);
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
        if let Some(acme) = &config.acme {
            set.directory = ordered::directory(acme, &provider, &mut wrong);
        }
        (set, wrong)
    }
}

/// What certificates are read and served with.
struct Means<'m> {
    provider: &'m Arc<CryptoProvider>,
    /// What tickets are made with.
    secret: &'m PairKey,
    /// The wall clock, in seconds since 1970.
    now: i64,
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

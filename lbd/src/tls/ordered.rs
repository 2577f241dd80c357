//! Certificates that are ordered: the place of one in the services that have it, and the bundle that it is kept in.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use common::config::{Acme, CertificateFiles, FileAt, Place};
use lbd_core::acme::{Names, Validity};
use rustls::ClientConfig;
use rustls::client::WebPkiServerVerifier;
use rustls::crypto::CryptoProvider;

use super::files::{Site, host_authorities, read_authorities, read_file, read_site};
use super::origin::client_config;
use super::termination::Protocol;
use super::{Wrong, now_seconds, provider};
use crate::view::OrderedView;

/// What the key is called that a bundle is read for.
const KEY: &str = "service.tls.acme";

/// The place of a certificate. Whoever serves with it looks here at each handshake, so that one that has come is used at once; a reload
/// keeps it.
#[derive(Debug)]
pub(crate) struct Slot {
    /// What it is for.
    pub(crate) names: Names,
    site: ArcSwapOption<Site>,
    /// What is shown until there is one: the certificate of the directory before.
    stand_in: ArcSwapOption<Site>,
    /// How far its order is.
    shown: ArcSwapOption<OrderedView>,
}

/// Why a bundle is no certificate for the names.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unfit {
    /// It cannot be used.
    #[error("{0}")]
    Unusable(String),
    /// It is for others.
    #[error("it is not for {0}")]
    OtherName(String),
}

impl Slot {
    /// One without a certificate, with what is shown meanwhile.
    pub(super) fn new(names: Names, stand_in: Option<Arc<Site>>) -> Self {
        Self {
            names,
            site: ArcSwapOption::empty(),
            stand_in: ArcSwapOption::new(stand_in),
            shown: ArcSwapOption::empty(),
        }
    }

    /// What clients get: the certificate, or what stands in for it, if there is either.
    pub(crate) fn site(&self) -> Option<Arc<Site>> {
        self.site.load_full().or_else(|| self.stand_in.load_full())
    }

    /// How long the certificate is valid, if there is one; nobody asks that of what stands in for it.
    pub(crate) fn validity(&self) -> Option<Validity> {
        self.site.load().as_ref().map(|site| site.validity())
    }

    /// How far its order is; none before somebody has looked.
    pub(crate) fn shown(&self) -> Option<Arc<OrderedView>> {
        self.shown.load_full()
    }

    /// Has everybody see how far its order is.
    pub(crate) fn show(&self, view: OrderedView) {
        self.shown.store(Some(Arc::new(view)));
    }

    /// Has it served with from now on.
    pub(crate) fn fill(&self, site: Site) {
        self.site.store(Some(Arc::new(site)));
        self.stand_in.store(None);
    }
}

impl Site {
    /// How long it is valid.
    pub(crate) const fn validity(&self) -> Validity {
        Validity { not_before: self.facts.not_before, not_after: self.facts.not_after }
    }
}

/// The bundle of a certificate for these names.
pub(crate) fn bundle_path(acme: &Acme, names: &Names) -> PathBuf {
    acme.folder.join(names.file_stem()).with_added_extension("pem")
}

/// Reads a bundle, which is to be kept at `path`.
///
/// # Errors
/// Why it is of no use.
pub(crate) fn read_bundle(file: &Path, path: &Path, names: &Names) -> Result<Site, Unfit> {
    let at = FileAt { path: file.to_owned(), key: KEY, place: Place::default() };
    let files = CertificateFiles { certificate: at, key: None, ocsp: None };
    let mut wrong = Vec::new();
    let site = read_site(&files, &provider(), now_seconds(), &mut wrong);
    let Some(mut site) = site else {
        let why = wrong.into_iter().map(|it| it.why).next();
        return Err(Unfit::Unusable(why.unwrap_or_default()));
    };
    if let Some(name) = names.iter().find(|name| !site.facts.covers(name)) {
        return Err(Unfit::OtherName(name.to_owned()));
    }
    path.clone_into(&mut site.file);
    Ok(site)
}

/// The text of a bundle.
pub(crate) fn read_bundle_text(path: &Path) -> std::io::Result<String> {
    String::from_utf8(read_file(path)?).map_err(std::io::Error::other)
}

/// Puts what is on the disk into a place that has nothing, if that is of use.
pub(super) fn fill_from_disk(acme: &Acme, slot: &Slot) {
    let path = bundle_path(acme, &slot.names);
    // None has been ordered yet, mostly.
    if slot.site.load().is_some() || !path.exists() {
        return;
    }
    match read_bundle(&path, &path, &slot.names) {
        Ok(site) => slot.fill(site),
        Err(why) => {
            let file = path.display();
            tracing::warn!(%file, "a certificate that was ordered cannot be used, and is ordered anew: {why}");
        }
    }
}

/// How a directory is spoken with; none where nobody is known who could have signed its certificate.
pub(super) fn directory(
    acme: &Acme,
    provider: &Arc<CryptoProvider>,
    wrong: &mut Vec<Wrong>,
) -> Option<Arc<ClientConfig>> {
    let (roots, _) = match &acme.roots {
        Some(file) => read_authorities(file, wrong)?,
        None => host_authorities()?,
    };
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider)).build();
    match verifier {
        Ok(verifier) => Some(Arc::new(client_config(provider, verifier, Some(Protocol::Http1.alpn())))),
        Err(error) => {
            if let Some(file) = &acme.roots {
                wrong.push(Wrong::unusable(file, format!("it cannot be used: {error}")));
            }
            None
        }
    }
}

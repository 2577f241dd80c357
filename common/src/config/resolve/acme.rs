//! Certificates that are ordered: whether they can be had.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::Path;

use super::{first_use, in_folder, tls};
use crate::config::diag::{Problems, quoted};
use crate::config::problem::Problem;
use crate::config::raw::{At, RawAcme, RawFile, RawService};
use crate::config::types::{Acme, Listen};

/// Where authorities look for what HTTP-01 wants. RFC 8555, section 8.3: "the server ... over HTTP on TCP port 80".
const PORT: u16 = 80;

pub(super) fn check(raw: &RawFile, listen: &[Vec<Listen>], out: &mut Problems) {
    if let Some(acme) = raw.acme.as_ref().filter(|acme| !acme.accept_terms) {
        out.add(acme.span.clone(), Problem::AcmeTerms {});
    }
    let names = |service: &RawService| -> Vec<String> {
        let names = service.http.tls.iter().flat_map(|tls| &tls.acme);
        names.map(|name| name.get_ref().clone()).collect()
    };
    let mut certificates: BTreeSet<BTreeSet<String>> = BTreeSet::new();
    for (index, service) in raw.services.iter().enumerate() {
        let Some(first) = service.http.tls.as_ref().and_then(|tls| tls.acme.first()) else { continue };
        check_names(service, out);
        if !raw.has_acme {
            let (key, needs) = ("service.tls.acme".to_owned(), "[acme]".to_owned());
            out.add(first.span(), Problem::KeyWithout { key, needs });
        }
        let port = raw.acme.as_ref().and_then(|acme| acme.http_port).unwrap_or(PORT);
        let own = listen.get(index).map(Vec::as_slice).unwrap_or_default();
        // One address is enough to say what is missing. Which port it is, a table that cannot be read does not say.
        let is_told = raw.acme.is_some() || !raw.has_acme;
        let mut own = own.iter().map(|it| it.address.ip()).filter(|_| is_told);
        if let Some(address) = own.find(|it| !is_asked(raw, listen, *it, port)) {
            let (address, port) = (address.to_string(), port.to_string());
            out.add(first.span(), Problem::AcmeNoHttp { address, port });
        }
        certificates.insert(names(service).into_iter().collect());
        if certificates.len() > Acme::CERTIFICATES_MAX {
            out.add(first.span(), Problem::TooManyOrdered { max: Acme::CERTIFICATES_MAX.to_string() });
            return;
        }
    }
}

fn check_names(service: &RawService, out: &mut Problems) {
    let mut seen = BTreeMap::new();
    let names: Vec<&At<String>> = service.http.tls.iter().flat_map(|tls| &tls.acme).collect();
    for name in &names {
        if let Some(first) = first_use(&mut seen, name.get_ref(), name.span()) {
            let (key, value) = ("service.tls.acme".to_owned(), quoted(name.get_ref()));
            out.add(name.span(), Problem::DuplicateEntry { key, value }).related(first, "first listed here");
        }
    }
    if let Some(name) = names.get(Acme::NAMES_MAX) {
        let (count, max) = (names.len().to_string(), Acme::NAMES_MAX.to_string());
        out.add(name.span(), Problem::TooManyAcmeNames { count, max });
    }
}

/// Whether some service would answer the authority at this address. One that listens on all of them does.
fn is_asked(raw: &RawFile, listen: &[Vec<Listen>], address: IpAddr, port: u16) -> bool {
    let in_clear = |service: &RawService| {
        service.http.tls.is_none() && service.mode.as_ref().is_some_and(|mode| *mode.get_ref() == "http")
    };
    let reaches = |other: &Listen| {
        let ip = other.address.ip();
        let any = ip.is_unspecified() || address.is_unspecified();
        other.address.port() == port && (ip == address || any && ip.is_ipv4() == address.is_ipv4())
    };
    raw.services.iter().zip(listen).any(|(service, own)| in_clear(service) && own.iter().any(reaches))
}

pub(super) fn build(raw: &RawAcme, folder: &Path) -> Acme {
    let text = |value: &Option<At<String>>, default: &str| {
        value.as_ref().map_or_else(|| default.to_owned(), |value| value.get_ref().clone())
    };
    Acme {
        directory: text(&raw.directory, Acme::DIRECTORY),
        contact: raw.contact.clone(),
        roots: raw.roots.as_ref().map(|roots| tls::file(folder, "acme.roots", roots)),
        renew_before: raw.renew_before.as_ref().map(|span| *span.get_ref()),
        http_port: raw.http_port.unwrap_or(PORT),
        folder: in_folder(folder, text(&raw.folder, Acme::FOLDER)),
    }
}

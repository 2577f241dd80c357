//! `tls` of services and of target groups.

use std::collections::BTreeMap;
use std::path::Path;

use super::{first_use, in_folder};
use crate::config::diag::{Problems, quoted};
use crate::config::problem::Problem;
use crate::config::raw::{At, RawFile, RawTargetTls, RawTls};
use crate::config::types::{CertificateFiles, ClientCertificates, FileAt, Place, TargetTls, Tls};

pub(super) fn check(raw: &RawFile, out: &mut Problems) {
    for tls in raw.services.iter().filter_map(|service| service.http.tls.as_ref()) {
        let mut seen = BTreeMap::new();
        for certificate in &tls.certificates {
            let file = &certificate.certificate;
            if let Some(first) = first_use(&mut seen, file.get_ref(), file.span()) {
                let (key, value) = ("service.tls.certificates".to_owned(), quoted(file.get_ref()));
                out.add(file.span(), Problem::DuplicateEntry { key, value })
                    .related(first, "first listed here");
            }
        }
    }
    check_groups(raw, out);
}

/// Notes groups with `tls` that something else than requests goes to.
fn check_groups(raw: &RawFile, out: &mut Problems) {
    let mut of_others = BTreeMap::new();
    let others = |mode: &At<&'static str>| *mode.get_ref() != "http";
    for service in raw.services.iter().filter(|service| service.mode.as_ref().is_some_and(others)) {
        for (_, group) in &service.references {
            of_others.entry(group.get_ref().as_str()).or_insert_with(|| group.span());
        }
    }
    for group in &raw.groups {
        let (Some(name), Some(tls)) = (&group.name, &group.tls) else { continue };
        let Some(first) = of_others.get(name.get_ref().as_str()) else { continue };
        let (key, needs) = ("target_group.tls".to_owned(), "mode = \"http\"".to_owned());
        out.add(tls.span.clone(), Problem::KeyWithout { key, needs })
            .related(first.clone(), "a service of another mode forwards here");
    }
}

pub(super) fn file(folder: &Path, key: &'static str, path: &At<String>) -> FileAt {
    FileAt { path: in_folder(folder, path.get_ref()), key, place: Place(path.span()) }
}

pub(super) fn of_service(raw: &RawTls, folder: &Path) -> Tls {
    let certificates = raw.certificates.iter().map(|certificate| CertificateFiles {
        certificate: file(folder, "service.tls.certificates", &certificate.certificate),
        key: certificate.key.as_ref().map(|key| file(folder, "service.tls.certificates.key", key)),
        ocsp: certificate
            .ocsp_file
            .as_ref()
            .map(|ocsp| file(folder, "service.tls.certificates.ocsp_file", ocsp)),
    });
    let clients = raw.client_ca_file.as_ref().map(|ca| ClientCertificates {
        ca: file(folder, "service.tls.client_ca_file", ca),
        required: raw.client_required,
    });
    Tls {
        certificates: certificates.collect(),
        acme: raw.acme.iter().map(|name| name.get_ref().clone()).collect(),
        min_version: raw.min_version,
        clients,
    }
}

pub(super) fn of_targets(raw: &RawTargetTls, folder: &Path) -> TargetTls {
    TargetTls {
        verify: raw.verify,
        ca: raw.ca_file.as_ref().map(|ca| file(folder, "target_group.tls.ca_file", ca)),
        server_name: raw.server_name.clone(),
        pins: raw.pins.clone(),
        place: Place(raw.span.clone()),
    }
}

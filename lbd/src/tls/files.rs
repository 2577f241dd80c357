//! Reading certificates, keys and authorities.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use common::config::{CertificateFiles, FileAt, read_bytes};
use common::time::UnixTime;
use lbd_core::tls::{Certificate, KeyKind, PublicKey, Response};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::{Error as PemError, PemObject as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use rustls::{Error, InconsistentKeys, RootCertStore, SignatureAlgorithm};

use super::termination::fingerprint;
use super::{Wrong, now_seconds};

/// The largest file that is read, in bytes.
const FILE_BYTES_MAX: u64 = 4 << 20;

/// The largest chain of certificates, in bytes: it has to fit into one buffer of a worker, beside what else a handshake says.
const CHAIN_BYTES_MAX: usize = 32 * 1024;

/// The largest OCSP response that is shown, in bytes, likewise.
const RESPONSE_BYTES_MAX: usize = 8 * 1024;

/// RFC 9325, section 4.5: "RSA key exchange with key lengths of less than 2048 bits" must not be used; the same holds for signatures.
const RSA_BITS_MIN: usize = 2048;

/// A certificate that clients get.
#[derive(Debug)]
pub(crate) struct Site {
    /// The file that it is from.
    pub(crate) file: PathBuf,
    /// What it says.
    pub(crate) facts: Certificate,
    /// What its key signs with.
    pub(crate) kind: KeyKind,
    /// The certificate with its chain and key.
    pub(crate) certified: Arc<CertifiedKey>,
    /// The same with an OCSP response, and until when that is shown.
    pub(crate) stapled: Option<(Response, Arc<CertifiedKey>)>,
}

impl Site {
    /// What is shown at this time.
    pub(super) fn certified(&self) -> &Arc<CertifiedKey> {
        match &self.stapled {
            Some((response, certified)) if response.is_good(now_seconds()) => certified,
            _ => &self.certified,
        }
    }

    /// What its key signs with, in a word.
    pub(crate) const fn key_name(&self) -> &'static str {
        match self.kind {
            KeyKind::Ecdsa => "ecdsa",
            KeyKind::Ed25519 => "ed25519",
            KeyKind::Rsa => "rsa",
        }
    }

    /// SHA-256 of the certificate, in hexadecimal.
    pub(crate) fn sha256(&self) -> String {
        self.certified.cert.first().map(|certificate| fingerprint(certificate)).unwrap_or_default()
    }

    /// In how many days it expires, if it does within so many seconds.
    pub(crate) fn expires_within(&self, seconds: i64) -> Option<i64> {
        let left = self.facts.not_after - now_seconds();
        (left < seconds).then_some(left.max(0) / 86_400)
    }
}

/// A point of time for people.
pub(super) fn date(seconds: i64) -> String {
    let nanos = u64::try_from(seconds).unwrap_or(0).saturating_mul(1_000_000_000);
    let text = UnixTime::from_nanos(nanos).to_string();
    text.split('.').next().map(|text| format!("{text}Z")).unwrap_or_default()
}

/// Reads a certificate with its key.
pub(super) fn read_site(
    files: &CertificateFiles,
    provider: &CryptoProvider,
    now: i64,
    wrong: &mut Vec<Wrong>,
) -> Option<Site> {
    let file = &files.certificate;
    let bytes = read(file, wrong)?;
    let chain = read_chain(file, &bytes, wrong)?;
    let facts = match Certificate::parse(&chain[0]) {
        Ok(facts) => facts,
        Err(error) => return refuse(wrong, file, format!("its certificate cannot be used: {error}")),
    };
    if let PublicKey::Rsa { bits } = facts.key
        && bits < RSA_BITS_MIN
    {
        let why =
            format!("its RSA key has {bits} bits, and less than {RSA_BITS_MIN} are no protection any more");
        return refuse(wrong, file, why);
    }
    let (key_file, key) = match &files.key {
        Some(key_file) => (key_file, read_key(key_file, &read(key_file, wrong)?, wrong)?),
        None => (file, read_key(file, &bytes, wrong)?),
    };
    // Groups are often given keys on purpose, everybody never.
    if let Ok(mode) = fs::metadata(&key_file.path).map(|it| it.permissions().mode() & 0o7777)
        && mode & 0o007 != 0
    {
        let why = format!(
            "its private key can be used by everybody on this host (mode {mode:04o}): run `chmod o= FILE`"
        );
        wrong.push(Wrong::doubtful(key_file, why));
    }
    let certified = match CertifiedKey::from_der(chain, key, provider) {
        Ok(certified) => certified,
        Err(Error::InconsistentKeys(InconsistentKeys::KeyMismatch)) => {
            return refuse(
                wrong,
                key_file,
                "its private key is not the certificate's: they do not belong together",
            );
        }
        Err(error) => return refuse(wrong, key_file, format!("its private key cannot be used: {error}")),
    };
    let kind = match certified.key.algorithm() {
        SignatureAlgorithm::RSA => KeyKind::Rsa,
        SignatureAlgorithm::ED25519 => KeyKind::Ed25519,
        _ => KeyKind::Ecdsa,
    };
    if facts.not_after < now {
        wrong
            .push(Wrong::doubtful(file, format!("its certificate has expired at {}", date(facts.not_after))));
    } else if facts.not_before > now {
        let why = format!("its certificate is not valid before {}", date(facts.not_before));
        wrong.push(Wrong::doubtful(file, why));
    }
    if facts.names.is_empty() && facts.addresses.is_empty() {
        let why =
            "its certificate is for no name: it has no subjectAltName, and clients look at nothing else";
        wrong.push(Wrong::doubtful(file, why));
    }
    // A certificate without one is better than none.
    let response = files.ocsp.as_ref().and_then(|file| read_response(file, &facts, now, wrong));
    let stapled = response.map(|(response, bytes)| {
        let certified = CertifiedKey { ocsp: Some(bytes), ..certified.clone() };
        (response, Arc::new(certified))
    });
    Some(Site { file: file.path.clone(), facts, kind, certified: Arc::new(certified), stapled })
}

fn refuse<T>(wrong: &mut Vec<Wrong>, file: &FileAt, why: impl Into<String>) -> Option<T> {
    wrong.push(Wrong::unusable(file, why));
    None
}

/// The bytes of a file.
pub(super) fn read(file: &FileAt, wrong: &mut Vec<Wrong>) -> Option<Vec<u8>> {
    match read_file(&file.path) {
        Ok(bytes) => Some(bytes),
        Err(error) => refuse(wrong, file, format!("cannot read it: {error}")),
    }
}

/// The bytes of a file with certificates or keys, of at most 4 MiB.
pub(crate) fn read_file(path: &Path) -> io::Result<Vec<u8>> {
    read_bytes(path, FILE_BYTES_MAX)
}

fn read_chain(file: &FileAt, bytes: &[u8], wrong: &mut Vec<Wrong>) -> Option<Vec<CertificateDer<'static>>> {
    let mut chain = Vec::new();
    for certificate in CertificateDer::pem_slice_iter(bytes) {
        match certificate {
            Ok(certificate) => chain.push(certificate),
            Err(error) => {
                let number = chain.len() + 1;
                return refuse(wrong, file, format!("certificate {number} in it cannot be read: {error}"));
            }
        }
    }
    if chain.is_empty() {
        return refuse(wrong, file, "there is no certificate in it: it must be PEM, with BEGIN CERTIFICATE");
    }
    let size: usize = chain.iter().map(|certificate| certificate.len()).sum();
    if size > CHAIN_BYTES_MAX {
        let why = format!("its chain of certificates has {size} bytes, more than {CHAIN_BYTES_MAX}");
        return refuse(wrong, file, why);
    }
    Some(chain)
}

fn read_key(file: &FileAt, bytes: &[u8], wrong: &mut Vec<Wrong>) -> Option<PrivateKeyDer<'static>> {
    match PrivateKeyDer::from_pem_slice(bytes) {
        Ok(key) => Some(key),
        Err(PemError::NoItemsFound) => {
            let text = String::from_utf8_lossy(bytes);
            let why = if text.contains("BEGIN ENCRYPTED PRIVATE KEY") {
                "its private key has a passphrase: `openssl pkey -in FILE` writes it without"
            } else {
                "there is no private key in it: put it behind the certificate, or name its file with `key`"
            };
            refuse(wrong, file, why)
        }
        Err(error) => refuse(wrong, file, format!("its private key cannot be read: {error}")),
    }
}

fn read_response(
    file: &FileAt,
    facts: &Certificate,
    now: i64,
    wrong: &mut Vec<Wrong>,
) -> Option<(Response, Vec<u8>)> {
    let mut doubt = |why: String| {
        wrong.push(Wrong::doubtful(file, format!("{why}; the certificate is shown without it")));
    };
    let bytes = match read_file(&file.path) {
        Ok(bytes) if bytes.len() <= RESPONSE_BYTES_MAX => bytes,
        Ok(_) => {
            doubt(format!("it is larger than {RESPONSE_BYTES_MAX} bytes"));
            return None;
        }
        Err(error) => {
            doubt(format!("cannot read it: {error}"));
            return None;
        }
    };
    let response = match Response::find(&bytes, &facts.serial) {
        Ok(Some(response)) => response,
        Ok(None) => {
            doubt("it is an OCSP response about other certificates".to_owned());
            return None;
        }
        Err(error) => {
            doubt(format!("it is no OCSP response in DER of any use: {error}"));
            return None;
        }
    };
    if !response.good {
        doubt("its OCSP response says that the certificate is not good".to_owned());
    } else if !response.is_good(now) {
        let (from, end) =
            (date(response.this_update), response.next_update.map_or_else(|| "ever".to_owned(), date));
        doubt(format!("its OCSP response is only good from {from} to {end}"));
    }
    Some((response, bytes))
}

/// The authorities in a file, and its bytes.
pub(super) fn read_authorities(file: &FileAt, wrong: &mut Vec<Wrong>) -> Option<(RootCertStore, Vec<u8>)> {
    let bytes = read(file, wrong)?;
    let mut roots = RootCertStore::empty();
    for certificate in read_all(file, &bytes, wrong)? {
        if let Err(error) = roots.add(certificate) {
            let why = format!("certificate {} in it cannot be used: {error}", roots.len() + 1);
            return refuse(wrong, file, why);
        }
    }
    if roots.is_empty() {
        return refuse(wrong, file, "there is no certificate in it: it must be PEM, with BEGIN CERTIFICATE");
    }
    Some((roots, bytes))
}

fn read_all(file: &FileAt, bytes: &[u8], wrong: &mut Vec<Wrong>) -> Option<Vec<CertificateDer<'static>>> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(bytes).collect();
    all.map_or_else(|error| refuse(wrong, file, format!("a certificate in it cannot be read: {error}")), Some)
}

/// Where distributions of Linux keep the authorities that they trust.
const HOST_AUTHORITIES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// The authorities that the host trusts. Some of them may be of a kind that cannot be used, which is no reason not to use the others.
pub(super) fn host_authorities() -> Option<(RootCertStore, Vec<u8>)> {
    let bytes = HOST_AUTHORITIES.iter().find_map(|path| read_file(Path::new(path)).ok())?;
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(CertificateDer::pem_slice_iter(&bytes).filter_map(Result::ok));
    if roots.is_empty() { None } else { Some((roots, bytes)) }
}

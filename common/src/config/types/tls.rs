//! TLS: of services towards clients, and of target groups towards targets.

use std::ops::Range;
use std::path::PathBuf;

/// Where in the file something is written, for what can only be found out about it later. Any two are equal: where a thing is written
/// makes it no other thing.
#[derive(Clone, Debug, Default)]
pub struct Place(pub(in crate::config) Range<usize>);

impl PartialEq for Place {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Place {}

/// A file that is read by whoever uses the configuration, and where it is named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileAt {
    /// The file, in the configuration's folder unless it is absolute.
    pub path: PathBuf,
    /// The key that names it.
    pub key: &'static str,
    /// Where that is.
    pub place: Place,
}

/// `tls` of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tls {
    /// The certificates; the first is for clients that ask for no name, or for one that no certificate is for. None only if one is
    /// ordered.
    pub certificates: Vec<CertificateFiles>,
    /// The names that a certificate is ordered for (see [`super::Acme`]), in lower case, each once; none if none is.
    pub acme: Vec<String>,
    /// The oldest version that is spoken; 1.2 by default.
    pub min_version: TlsVersion,
    /// Whether clients have to show who they are; none for not.
    pub clients: Option<ClientCertificates>,
}

/// A certificate with its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateFiles {
    /// PEM: the certificate, and behind it those that lead to its authority.
    pub certificate: FileAt,
    /// PEM: the private key; none if it is in the same file.
    pub key: Option<FileAt>,
    /// DER: an OCSP response that is shown with the certificate.
    pub ocsp: Option<FileAt>,
}

/// A version of TLS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TlsVersion {
    /// 1.2 (RFC 5246).
    #[default]
    V12,
    /// 1.3 (RFC 8446).
    V13,
}

/// How clients show who they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientCertificates {
    /// PEM: the authorities that may have signed their certificates.
    pub ca: FileAt,
    /// Whether those without a certificate are refused; true by default.
    pub required: bool,
}

/// `tls` of a target group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TargetTls {
    /// Whether the targets' certificates have to be signed by an authority, be in date and for the name; true by default.
    pub verify: bool,
    /// PEM: the authorities; none for the host's.
    pub ca: Option<FileAt>,
    /// The name that is asked for and that certificates have to be for; none for the target's address.
    pub server_name: Option<String>,
    /// SHA-256 of the public keys (`SubjectPublicKeyInfo`) that are accepted; empty for any.
    pub pins: Vec<[u8; 32]>,
    /// Where it is written.
    pub place: Place,
}

//! TLS towards the targets of a group.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use common::config::{FileAt, TargetTls};
use lbd_core::tls::Certificate;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::{
    CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature,
};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, OtherError, SignatureScheme};

use super::Wrong;
use super::files::{host_authorities, read_authorities};
use super::termination::{Protocol, sha256};

/// The TLS of a target group.
#[derive(Debug)]
pub(crate) struct Origin {
    /// What handshakes are made with.
    pub(crate) config: Arc<ClientConfig>,
    name: Option<ServerName<'static>>,
    protocol: Protocol,
    /// What it was made from: the file's words, and a hash of the authorities.
    settings: TargetTls,
    authorities: [u8; 32],
}

impl Origin {
    /// Reads what a group needs whose targets are spoken to in `protocol`.
    pub(super) fn read(
        tls: &TargetTls,
        protocol: Protocol,
        provider: &Arc<CryptoProvider>,
        wrong: &mut Vec<Wrong>,
    ) -> Option<Self> {
        let own =
            FileAt { path: PathBuf::from("this host"), key: "target_group.tls", place: tls.place.clone() };
        let roots = match (&tls.ca, tls.verify) {
            (_, false) => None,
            (Some(file), true) => Some((file, read_authorities(file, wrong)?)),
            (None, true) => match host_authorities() {
                Some(read) => Some((&own, read)),
                None => {
                    let why = "it has no certificates of authorities, such as Debian's package ca-certificates brings: name \
                               those of the targets' with ca_file, or write verify = false";
                    wrong.push(Wrong::unusable(&own, why));
                    return None;
                }
            },
        };
        let authorities = roots.as_ref().map_or([0; 32], |(_, (_, bytes))| sha256(bytes));
        let inner = match roots {
            None => None,
            Some((file, (roots, _))) => {
                let builder =
                    WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider));
                match builder.build() {
                    Ok(verifier) => Some(verifier),
                    Err(error) => {
                        wrong.push(Wrong::unusable(file, format!("it cannot be used: {error}")));
                        return None;
                    }
                }
            }
        };
        let verifier = TargetVerifier { inner, pins: tls.pins.clone(), ..TargetVerifier::of_any(provider) };
        let config = client_config(provider, Arc::new(verifier), Some(protocol.alpn()));
        let Ok(name) = tls.server_name.clone().map(ServerName::try_from).transpose() else {
            let name = tls.server_name.clone().unwrap_or_default();
            let file = FileAt {
                path: PathBuf::from(name),
                key: "target_group.tls.server_name",
                place: tls.place.clone(),
            };
            wrong.push(Wrong::unusable(&file, "it cannot be asked for by TLS"));
            return None;
        };
        Some(Self { config: Arc::new(config), name, protocol, settings: tls.clone(), authorities })
    }

    /// Whether nothing is different.
    pub(super) fn is_as(&self, other: &Self) -> bool {
        self.settings == other.settings
            && self.protocol == other.protocol
            && self.authorities == other.authorities
    }

    /// What the target is asked for, and its certificate has to be for. RFC 6066, section 3: addresses "are not permitted" as names that
    /// are asked for, so that of one without a name nothing is.
    pub(crate) fn server_name(&self, target: SocketAddr) -> ServerName<'static> {
        self.name.clone().unwrap_or_else(|| ServerName::from(target.ip()))
    }
}

/// How handshakes are made with targets that `verifier` lets pass, of services and of checks: TLS 1.2 and 1.3, each a whole one.
pub(crate) fn client_config(
    provider: &Arc<CryptoProvider>,
    verifier: Arc<dyn ServerCertVerifier>,
    alpn: Option<&[u8]>,
) -> ClientConfig {
    let mut config = ClientConfig::builder_with_provider(Arc::clone(provider))
        .with_protocol_versions(rustls::ALL_VERSIONS)
        .expect("the provider has cipher suites for TLS 1.2 and 1.3")
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    // A session that is gone on with would not show the certificate, and so not that it has expired.
    config.resumption = Resumption::disabled();
    config.alpn_protocols = alpn.map(<[u8]>::to_vec).into_iter().collect();
    config
}

/// Verifies targets: by an authority, by their keys, by both or by nothing. That the other end holds its key is verified in any case, so
/// that the handshake is a whole one.
#[derive(Debug)]
pub(crate) struct TargetVerifier {
    inner: Option<Arc<WebPkiServerVerifier>>,
    pins: Vec<[u8; 32]>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl TargetVerifier {
    /// Lets any certificate pass.
    pub(crate) fn of_any(provider: &CryptoProvider) -> Self {
        Self { inner: None, pins: Vec::new(), algorithms: provider.signature_verification_algorithms }
    }
}

/// The target has shown another key.
#[derive(Debug)]
struct OtherKey;

impl fmt::Display for OtherKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("its public key is none of those pinned")
    }
}

impl std::error::Error for OtherKey {}

impl ServerCertVerifier for TargetVerifier {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if !self.pins.is_empty() {
            let bad = |_| Error::InvalidCertificate(CertificateError::BadEncoding);
            let facts = Certificate::parse(certificate).map_err(bad)?;
            if !self.pins.contains(&sha256(&certificate[facts.public_key])) {
                let other = CertificateError::Other(OtherError(Arc::new(OtherKey)));
                return Err(Error::InvalidCertificate(other));
            }
        }
        match &self.inner {
            Some(inner) => inner.verify_server_cert(certificate, intermediates, name, ocsp, now),
            None => Ok(ServerCertVerified::assertion()),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

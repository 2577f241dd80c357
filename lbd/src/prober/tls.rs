//! TLS for checks: 1.2 and 1.3, each check with a whole handshake of its own.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use lbd_core::check::{Failure, Stage, Verdict};
use rustls::client::WebPkiServerVerifier;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{CertificateError, ClientConfig, Error, RootCertStore};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::stream::{self, Destination, Stream};
use crate::tls::{TargetVerifier, client_config, provider, read_file};

/// A health check that the configuration asks for and that cannot be made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UnusableCheck {
    /// Its host cannot be asked for.
    #[error("the host {host:?} of a health check cannot be {what}: give it a name, such as \"shop.example\"")]
    Host { host: String, what: &'static str },
    /// Its path cannot be asked for.
    #[error(
        "the path {path:?} of a health check cannot be a :path of HTTP/2: write what is no character of an address as %XX"
    )]
    Path { path: String },
    /// Its CA file cannot be read.
    #[error("cannot read the ca_file {path} of a health check: {source}")]
    Read { path: PathBuf, source: io::Error },
    /// There is nothing in the CA file.
    #[error(
        "the ca_file {path} of a health check has no certificate in it: it must be PEM, with BEGIN CERTIFICATE"
    )]
    Empty { path: PathBuf },
    /// One of the CA file's certificates is none.
    #[error("certificate {number} of the ca_file {path} of a health check cannot be used: {why}")]
    Certificate { path: PathBuf, number: usize, why: String },
}

/// Reads a CA file.
pub(super) fn read(path: &Path) -> Result<Vec<u8>, UnusableCheck> {
    read_file(path).map_err(|source| UnusableCheck::Read { path: path.to_owned(), source })
}

/// Certificates must be signed by one of those in `pem`, which was read from `path`.
pub(super) fn config_with_ca(
    pem: &[u8],
    path: &Path,
    alpn: Option<&str>,
) -> Result<Arc<ClientConfig>, UnusableCheck> {
    let bad = |number: usize, why: String| UnusableCheck::Certificate { path: path.to_owned(), number, why };
    let mut roots = RootCertStore::empty();
    for (index, certificate) in CertificateDer::pem_slice_iter(pem).enumerate() {
        let certificate = certificate.map_err(|error| bad(index + 1, error.to_string()))?;
        roots.add(certificate).map_err(|error| bad(index + 1, error.to_string()))?;
    }
    if roots.is_empty() {
        return Err(UnusableCheck::Empty { path: path.to_owned() });
    }
    let provider = provider();
    let verifier =
        WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider)).build();
    let verifier = verifier.map_err(|error| bad(1, error.to_string()))?;
    Ok(Arc::new(client_config(&provider, verifier, alpn.map(str::as_bytes))))
}

/// Any certificate will do.
pub(super) fn config_without_ca(alpn: Option<&str>) -> Arc<ClientConfig> {
    let provider = provider();
    let verifier = Arc::new(TargetVerifier::of_any(&provider));
    Arc::new(client_config(&provider, verifier, alpn.map(str::as_bytes)))
}

/// The TLS side of one target's check; or why there can be none.
#[derive(Debug)]
pub(super) struct Client(Result<(Arc<ClientConfig>, ServerName<'static>), &'static str>);

impl Client {
    /// Asks for `host`, which may have a port behind it, or without one for no name: then a certificate that is verified must be
    /// for the target's address.
    pub(super) fn new(config: Option<&Arc<ClientConfig>>, host: Option<&str>, address: SocketAddr) -> Self {
        let name = host.map_or_else(|| Ok(ServerName::from(address.ip())), server_name);
        Self(match (config, name) {
            (Some(config), Ok(name)) => Ok((Arc::clone(config), name)),
            // Neither is so when the configuration is accepted.
            (None, _) => Err("its ca_file cannot be used"),
            (_, Err(_)) => Err("its host cannot be asked for"),
        })
    }

    /// The TLS check: connects, and shakes hands.
    pub(super) async fn run(&self, to: Destination, stage: &mut Stage) -> Verdict {
        let stream = stream::connect(to).await?;
        self.handshake(stream, stage).await.map(drop)
    }

    /// Shakes hands on a new connection.
    pub(super) async fn handshake(
        &self,
        stream: Stream,
        stage: &mut Stage,
    ) -> Result<TlsStream<Stream>, Failure> {
        let (config, name) = self.0.as_ref().map_err(|why| Failure::Local((*why).to_owned()))?;
        *stage = Stage::Handshake;
        let connected = TlsConnector::from(Arc::clone(config)).connect(name.clone(), stream).await;
        connected.map_err(|error| stream::failure(&error, *stage))
    }
}

/// The server name of a `host` as in HTTP's header: without its port.
pub(super) fn server_name(host: &str) -> Result<ServerName<'static>, UnusableCheck> {
    let address = host.parse().or_else(|_| host.parse().map(|address: SocketAddr| address.ip()));
    let bracketed = || host.strip_prefix('[')?.strip_suffix(']')?.parse().ok();
    if let Some(address) = address.ok().or_else(bracketed) {
        let address: IpAddr = address;
        return Ok(address.into());
    }
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    let bad = |_| UnusableCheck::Host { host: host.to_owned(), what: "asked for by TLS" };
    ServerName::try_from(name.to_owned()).map_err(bad)
}

/// What a TLS error means.
pub(super) fn failure(error: &Error) -> Failure {
    use CertificateError as Bad;
    Failure::Tls(match error {
        Error::InvalidCertificate(bad) => match bad {
            Bad::Expired | Bad::ExpiredContext { .. } => "certificate expired".to_owned(),
            Bad::NotValidYet | Bad::NotValidYetContext { .. } => "certificate not valid yet".to_owned(),
            Bad::UnknownIssuer => "certificate not signed by any of the ca_file".to_owned(),
            Bad::NotValidForName => "certificate for another name".to_owned(),
            Bad::NotValidForNameContext { expected, .. } => {
                format!("certificate not for {}", expected.to_str())
            }
            Bad::BadSignature => "bad signature".to_owned(),
            Bad::Revoked => "certificate revoked".to_owned(),
            // What `openssl req -x509` makes, used for the server and as the ca_file at once.
            bad if bad.to_string().contains("CaUsedAsEndEntity") => {
                "the certificate is that of an authority itself: have it sign one for the target".to_owned()
            }
            other => other.to_string(),
        },
        Error::InvalidMessage(_) => "the answer is not TLS".to_owned(),
        Error::AlertReceived(alert) => format!("refused by the target: {alert:?}"),
        Error::PeerIncompatible(why) => format!("no version or cipher suite in common ({why:?})"),
        other => other.to_string(),
    })
}

//! What goes wrong between the nodes, for operators and for the counters.

use std::io;
use std::net::{IpAddr, SocketAddr};

use common::config::KeyFileError;
use rustls::{AlertDescription, CertificateError, Error as TlsError, PeerIncompatible};

/// Why there is no link, or no session yet.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LinkError {
    /// The configuration has none, for this reason.
    #[error("there is no link to the other node: {0}")]
    NotConfigured(&'static str),
    /// The pair's key cannot be read.
    #[error("the link to the other node needs the pair's key: {0}")]
    Key(#[from] KeyFileError),
    /// TLS cannot be set up.
    #[error("cannot make the keys of the link to the other node: {0}; this is a fault of this build of lbd")]
    Identity(TlsError),
    /// No thread, or no runtime on it.
    #[error(
        "cannot start the thread of the link to the other node: {0}; the host is short of threads or files"
    )]
    Start(io::Error),
    /// The own address cannot be listened on.
    #[error("cannot listen for the other node on {address}: {source}; {}", bind_advice(source))]
    Bind { address: SocketAddr, source: io::Error },
    /// A connection cannot be accepted.
    #[error("cannot accept a connection on {address}: {source}; the host is short of files or memory")]
    Accept { address: SocketAddr, source: io::Error },
    /// The peer cannot be reached.
    #[error("cannot connect to the other node at {address}: {source}; {}", connect_advice(source))]
    Connect { address: SocketAddr, source: io::Error },
    /// Connected, or connecting, from elsewhere than the peer's address.
    #[error(
        "refused a connection from {from}, because the other node's peer_address is {expected}; keep others off the link between the nodes"
    )]
    Stranger { from: IpAddr, expected: IpAddr },
    /// Too many connections that had not shown who they are.
    #[error(
        "refused a connection from {from}: too many have come without showing the other node's key; see what runs on that host"
    )]
    TooMany { from: IpAddr },
    /// A handshake did not end in time.
    #[error(
        "the handshake with {with} did not end in time; is it lbd that answers there, and is its host overloaded?"
    )]
    Timeout { with: SocketAddr },
    /// A handshake failed.
    #[error("the handshake with {with} failed: {detail}{}", why.advice())]
    Handshake { with: SocketAddr, why: Refusal, detail: String },
}

common::named! {
    /// Why a connection did not become a session, as counted.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(crate) enum Refusal {
        /// It came from another address than the peer's.
        Address => "address",
        /// Too many had come without showing a key.
        TooMany => "too_many",
        /// The peer does not answer, or says that nothing listens.
        Unreachable => "unreachable",
        /// The handshake took too long.
        Timeout => "timeout",
        /// The other end went away before the handshake was over.
        Closed => "closed",
        /// What came is not TLS.
        NotTls => "not_tls",
        /// TLS, but not 1.3.
        Version => "tls_version",
        /// TLS 1.3, but no raw public key is offered.
        KeyType => "key_type",
        /// A key that is not the other node's; or the other node says so of ours.
        Key => "key",
        /// Another protocol inside TLS: another release.
        Protocol => "protocol",
        /// Bytes that are not from this handshake: forged, recorded or damaged.
        Forged => "forged",
        /// A newer connection had become the session meanwhile.
        Superseded => "superseded",
        /// Something else.
        Other => "other",
    }
}

impl Refusal {
    /// What to do about it, as the end of a sentence.
    const fn advice(self) -> &'static str {
        match self {
            Self::Key => {
                "; the key_file must hold the same key on both nodes, and the [[node]] names must be the same in both files"
            }
            Self::Protocol => "; run the same Tandem release on both nodes",
            Self::NotTls | Self::Version | Self::KeyType => {
                "; something else than lbd uses this address and port"
            }
            Self::Forged => "; something between the nodes changes or repeats their bytes",
            _ => "",
        }
    }
}

impl LinkError {
    /// Under what it counts.
    pub(super) const fn refusal(&self) -> Refusal {
        match self {
            Self::Stranger { .. } => Refusal::Address,
            Self::TooMany { .. } => Refusal::TooMany,
            Self::Connect { .. } => Refusal::Unreachable,
            Self::Timeout { .. } => Refusal::Timeout,
            Self::Handshake { why, .. } => *why,
            Self::NotConfigured(_)
            | Self::Key(_)
            | Self::Identity(_)
            | Self::Start(_)
            | Self::Bind { .. }
            | Self::Accept { .. } => Refusal::Other,
        }
    }

    /// The handshake with `with` failed with this error.
    pub(super) fn handshake(with: SocketAddr, error: &io::Error) -> Self {
        let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<TlsError>());
        let why = tls.map_or_else(|| of_io(error.kind()), of_tls);
        let detail = match (why, tls) {
            (Refusal::Key, Some(TlsError::AlertReceived(_))) => {
                "the other node does not accept this node's key".to_owned()
            }
            (Refusal::Key, _) => "it does not have the other node's key".to_owned(),
            (Refusal::Protocol, _) => "it does not speak this version of the replication protocol".to_owned(),
            (Refusal::NotTls, _) => "what came is not TLS".to_owned(),
            (Refusal::Version, _) => "it does not speak TLS 1.3".to_owned(),
            (Refusal::KeyType, _) => "it shows no raw public key".to_owned(),
            (Refusal::Closed, _) => "it closed the connection".to_owned(),
            _ => error.to_string(),
        };
        Self::Handshake { with, why, detail }
    }

    /// The handshake with `with` came to an end without TLS failing.
    pub(super) fn refused(with: SocketAddr, why: Refusal, detail: &str) -> Self {
        Self::Handshake { with, why, detail: detail.to_owned() }
    }
}

fn of_io(kind: io::ErrorKind) -> Refusal {
    use io::ErrorKind as Kind;
    match kind {
        Kind::UnexpectedEof
        | Kind::ConnectionReset
        | Kind::ConnectionAborted
        | Kind::BrokenPipe
        | Kind::NotConnected => Refusal::Closed,
        Kind::TimedOut => Refusal::Timeout,
        _ => Refusal::Other,
    }
}

fn of_tls(error: &TlsError) -> Refusal {
    use AlertDescription as Alert;
    match error {
        TlsError::InvalidMessage(_) | TlsError::AlertReceived(Alert::DecodeError) => Refusal::NotTls,
        TlsError::PeerIncompatible(PeerIncompatible::IncorrectCertificateTypeExtension)
        | TlsError::AlertReceived(Alert::UnsupportedCertificate) => Refusal::KeyType,
        TlsError::PeerIncompatible(
            PeerIncompatible::SupportedVersionsExtensionRequired
            | PeerIncompatible::Tls12NotOffered
            | PeerIncompatible::Tls12NotOfferedOrEnabled
            | PeerIncompatible::ServerDoesNotSupportTls12Or13
            | PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig,
        )
        | TlsError::AlertReceived(Alert::ProtocolVersion) => Refusal::Version,
        TlsError::InvalidCertificate(
            CertificateError::ApplicationVerificationFailure | CertificateError::BadSignature,
        )
        | TlsError::NoCertificatesPresented
        | TlsError::AlertReceived(Alert::AccessDenied | Alert::CertificateRequired) => Refusal::Key,
        TlsError::NoApplicationProtocol | TlsError::AlertReceived(Alert::NoApplicationProtocol) => {
            Refusal::Protocol
        }
        TlsError::DecryptError | TlsError::AlertReceived(Alert::BadRecordMac | Alert::DecryptError) => {
            Refusal::Forged
        }
        _ => Refusal::Other,
    }
}

fn connect_advice(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrNotAvailable => "no interface of this host has this node's peer_address",
        io::ErrorKind::ConnectionRefused => "see whether its lbd runs",
        _ => "see whether its host is up, and whether firewalls pass this port between the nodes",
    }
}

fn bind_advice(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrNotAvailable => {
            "it is tried again until the interface of this node's peer_address has it"
        }
        io::ErrorKind::AddrInUse => "find the other program with `ss -ltnp`; it is tried again",
        _ => "it is tried again",
    }
}

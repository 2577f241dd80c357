//! Why a handshake with a client failed.

use rustls::{Error, PeerIncompatible};

common::named! {
    /// A kind of failure. Each is counted by itself.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(crate) enum Failure {
        /// The client speaks HTTP without TLS.
        PlainHttp => "plain_http",
        /// What came is no TLS.
        NotTls => "not_tls",
        /// No version of TLS in common.
        Version => "version",
        /// No cipher suite, group or signature scheme in common.
        NothingInCommon => "nothing_in_common",
        /// No protocol above TLS in common (RFC 7301).
        Protocol => "protocol",
        /// The client has no certificate, or one that no authority of the service has signed.
        ClientCertificate => "client_certificate",
        /// The client refused: what it got, mostly the certificate.
        Refused => "refused",
        /// The client ended the connection.
        Closed => "closed",
        /// It took too long.
        Timeout => "timeout",
        /// The client said more than anybody has to say.
        TooLong => "too_long",
        /// Something else that it must not do.
        Misbehaved => "misbehaved",
        /// This end has not what it takes.
        Local => "local",
        /// The certificate that is ordered is not there yet.
        NoCertificate => "no_certificate",
    }
}

impl Failure {
    /// What an error means.
    pub(crate) fn of(error: &Error) -> Self {
        match error {
            Error::InvalidMessage(_) | Error::PeerSentOversizedRecord => Self::NotTls,
            Error::PeerIncompatible(
                PeerIncompatible::ServerDoesNotSupportTls12Or13
                | PeerIncompatible::SupportedVersionsExtensionRequired
                | PeerIncompatible::Tls12NotOffered
                | PeerIncompatible::Tls12NotOfferedOrEnabled
                | PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig,
            ) => Self::Version,
            Error::PeerIncompatible(_) => Self::NothingInCommon,
            Error::NoApplicationProtocol => Self::Protocol,
            Error::NoCertificatesPresented | Error::InvalidCertificate(_) => Self::ClientCertificate,
            Error::AlertReceived(_) => Self::Refused,
            Error::General(_)
            | Error::EncryptError
            | Error::FailedToGetCurrentTime
            | Error::FailedToGetRandomBytes
            | Error::InconsistentKeys(_) => Self::Local,
            _ => Self::Misbehaved,
        }
    }
}

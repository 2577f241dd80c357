//! Why a handshake with a client failed.

use rustls::{Error, PeerIncompatible};

/// A kind of failure. Each is counted by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// The client speaks HTTP without TLS.
    PlainHttp,
    /// What came is no TLS.
    NotTls,
    /// No version of TLS in common.
    Version,
    /// No cipher suite, group or signature scheme in common.
    NothingInCommon,
    /// No protocol above TLS in common (RFC 7301).
    Protocol,
    /// The client has no certificate, or one that no authority of the service has signed.
    ClientCertificate,
    /// The client refused: what it got, mostly the certificate.
    Refused,
    /// The client ended the connection.
    Closed,
    /// It took too long.
    Timeout,
    /// The client said more than anybody has to say.
    TooLong,
    /// Something else that it must not do.
    Misbehaved,
    /// This end has not what it takes.
    Local,
    /// The certificate that is ordered is not there yet.
    NoCertificate,
}

impl Failure {
    /// How many there are.
    pub(crate) const COUNT: usize = 13;

    /// All of them, in the order of [`Self::index`].
    pub(crate) const ALL: [Self; Self::COUNT] = [
        Self::PlainHttp,
        Self::NotTls,
        Self::Version,
        Self::NothingInCommon,
        Self::Protocol,
        Self::ClientCertificate,
        Self::Refused,
        Self::Closed,
        Self::Timeout,
        Self::TooLong,
        Self::Misbehaved,
        Self::Local,
        Self::NoCertificate,
    ];

    /// Its place in [`Self::ALL`].
    pub(crate) const fn index(self) -> usize {
        self as usize
    }

    /// Its name in the metrics and in the API.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::PlainHttp => "plain_http",
            Self::NotTls => "not_tls",
            Self::Version => "version",
            Self::NothingInCommon => "nothing_in_common",
            Self::Protocol => "protocol",
            Self::ClientCertificate => "client_certificate",
            Self::Refused => "refused",
            Self::Closed => "closed",
            Self::Timeout => "timeout",
            Self::TooLong => "too_long",
            Self::Misbehaved => "misbehaved",
            Self::Local => "local",
            Self::NoCertificate => "no_certificate",
        }
    }

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_has_its_place_and_its_name() {
        for (index, failure) in Failure::ALL.into_iter().enumerate() {
            assert_eq!(failure.index(), index);
            assert_eq!(Failure::ALL.iter().filter(|other| other.name() == failure.name()).count(), 1);
        }
    }
}

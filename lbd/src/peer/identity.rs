//! Who the two nodes are to each other, and how TLS makes sure of it.
//!
//! Each node has an Ed25519 key, derived from the pair's secret and its own name, so that both ends know the other's public key
//! without anything being exchanged, and neither can be taken for the other: a connection that is turned back to where it came from
//! finds the wrong key on both ends. Keys are shown as they are (raw public keys, RFC 7250) and compared as a whole: a certificate would
//! add a format to parse, names and dates (which go wrong with a host's clock), and nothing that is wanted here.
//!
//! TLS 1.3 only, each session with a whole handshake: no tickets, no resumption, no early data. Both ends contribute fresh randomness to
//! each, so that recorded bytes are of no use a second time.

use std::sync::Arc;

use common::key::{KeyUse, PairKey};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{AlwaysResolvesClientRawPublicKeys, Resumption};
use rustls::crypto::aws_lc_rs::{self, sign::any_eddsa_type};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, verify_tls13_signature_with_raw_key};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName, SubjectPublicKeyInfoDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{AlwaysResolvesServerRawPublicKeys, NoServerSessionStorage};
use rustls::sign::{CertifiedKey, SigningKey};
use rustls::version::TLS13;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, Error, PeerIncompatible,
    ServerConfig, SignatureScheme,
};

/// What is spoken inside (ALPN). Another release whose frames mean something else has another one.
pub(super) const PROTOCOL: &[u8] = b"tandem-replication/1";

/// What stands before the 32 bytes of an Ed25519 seed in PKCS #8 (RFC 8410, section 7).
const PKCS8_HEAD: [u8; 16] =
    [0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20];

/// This node as it shows itself and knows its peer.
#[derive(Debug)]
pub(super) struct Identity {
    /// For connections that the peer makes.
    pub(super) server: Arc<ServerConfig>,
    /// For connections to the peer.
    pub(super) client: Arc<ClientConfig>,
}

impl Identity {
    /// That of `node`, whose other node is `peer`.
    pub(super) fn new(key: &PairKey, node: &str, peer: &str) -> Result<Self, Error> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let own = signing_key(key, node)?;
        let certified = Arc::new(CertifiedKey::new(vec![public_key(&*own)?.as_ref().to_vec().into()], own));
        let verifier = Arc::new(OnlyPeer {
            public_key: public_key(&*signing_key(key, peer)?)?,
            algorithms: provider.signature_verification_algorithms,
        });
        Ok(Self {
            server: Arc::new(server(&provider, &certified, &verifier)?),
            client: Arc::new(client(&provider, &certified, &verifier)?),
        })
    }
}

fn server(
    provider: &Arc<CryptoProvider>,
    own: &Arc<CertifiedKey>,
    verifier: &Arc<OnlyPeer>,
) -> Result<ServerConfig, Error> {
    let mut config = ServerConfig::builder_with_provider(Arc::clone(provider))
        .with_protocol_versions(&[&TLS13])?
        .with_client_cert_verifier(Arc::<OnlyPeer>::clone(verifier))
        .with_cert_resolver(Arc::new(AlwaysResolvesServerRawPublicKeys::new(Arc::clone(own))));
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.max_early_data_size = 0;
    config.alpn_protocols = vec![PROTOCOL.to_vec()];
    Ok(config)
}

fn client(
    provider: &Arc<CryptoProvider>,
    own: &Arc<CertifiedKey>,
    verifier: &Arc<OnlyPeer>,
) -> Result<ClientConfig, Error> {
    let mut config = ClientConfig::builder_with_provider(Arc::clone(provider))
        .with_protocol_versions(&[&TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::<OnlyPeer>::clone(verifier))
        .with_client_cert_resolver(Arc::new(AlwaysResolvesClientRawPublicKeys::new(Arc::clone(own))));
    config.resumption = Resumption::disabled();
    config.enable_early_data = false;
    config.enable_sni = false;
    config.alpn_protocols = vec![PROTOCOL.to_vec()];
    Ok(config)
}

fn signing_key(key: &PairKey, node: &str) -> Result<Arc<dyn SigningKey>, Error> {
    let seed = key.derive_for_node(KeyUse::Replication, node);
    any_eddsa_type(&PrivatePkcs8KeyDer::from([&PKCS8_HEAD[..], &seed].concat()))
}

fn public_key(key: &dyn SigningKey) -> Result<SubjectPublicKeyInfoDer<'static>, Error> {
    let public = key.public_key().map(SubjectPublicKeyInfoDer::into_owned);
    public.ok_or_else(|| Error::General("the key has no public part".to_owned()))
}

/// Knows one public key, in either role, and no other.
#[derive(Debug)]
struct OnlyPeer {
    public_key: SubjectPublicKeyInfoDer<'static>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl OnlyPeer {
    fn check(&self, shown: &CertificateDer<'_>, more: &[CertificateDer<'_>]) -> Result<(), Error> {
        if shown.as_ref() == self.public_key.as_ref() && more.is_empty() {
            return Ok(());
        }
        // Its alert is "access denied", which says the right thing to the other end.
        Err(Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure))
    }

    fn check_signature(
        &self,
        message: &[u8],
        shown: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let key = SubjectPublicKeyInfoDer::from(shown.as_ref());
        verify_tls13_signature_with_raw_key(message, &key, signature, &self.algorithms)
    }
}

/// TLS 1.2 is not offered, so that there is nothing to verify in it.
const NOT_TLS12: Error = Error::PeerIncompatible(PeerIncompatible::SupportedVersionsExtensionRequired);

impl ServerCertVerifier for OnlyPeer {
    fn verify_server_cert(
        &self,
        shown: &CertificateDer<'_>,
        more: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.check(shown, more).map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _shown: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(NOT_TLS12)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        shown: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.check_signature(message, shown, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

impl ClientCertVerifier for OnlyPeer {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        shown: &CertificateDer<'_>,
        more: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.check(shown, more).map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _shown: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(NOT_TLS12)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        shown: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.check_signature(message, shown, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn public_keys_are_those_of_rfc_8032() {
        // RFC 8032, section 7.1, test 1: secret and public key.
        let seed =
            PairKey::parse("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60").unwrap();
        let public =
            PairKey::parse("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a").unwrap();
        let der = PrivatePkcs8KeyDer::from([&PKCS8_HEAD[..], seed.bytes()].concat());
        let shown = public_key(&*any_eddsa_type(&der).unwrap()).unwrap();
        // RFC 8410, section 4: what stands before a public key.
        let head = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];
        assert_eq!(shown.as_ref(), [&head[..], public.bytes()].concat());
    }

    #[test]
    fn debug_shows_no_secret() {
        let key = PairKey::new([7; 32]);
        let identity = Identity::new(&key, "a", "b").unwrap();
        let own = key.derive_for_node(KeyUse::Replication, "a");
        for text in [format!("{identity:?}"), format!("{identity:#?}"), format!("{identity:x?}")] {
            let text = text.replace(char::is_whitespace, "").to_lowercase();
            for secret in [&own, key.bytes()] {
                let part = &secret[..4];
                let joined = |each: fn(&u8) -> String, between: &str| {
                    part.iter().map(each).collect::<Vec<_>>().join(between)
                };
                let hexadecimal: fn(&u8) -> String = |byte| format!("{byte:02x}");
                let ways = [
                    joined(u8::to_string, ","),
                    joined(hexadecimal, ""),
                    joined(hexadecimal, ":"),
                    joined(|byte| format!("{byte:x}"), ","),
                    joined(|byte| format!("0x{byte:x}"), ","),
                ];
                for way in ways {
                    assert!(!text.contains(&way), "{way} is in {text}");
                }
            }
        }
    }
}

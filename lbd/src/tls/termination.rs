//! TLS towards the clients of a service.

use std::cell::RefCell;
use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use common::config::{ClientCertificates, FileAt, Tls, TlsVersion};
use lbd_core::tls::{Choice, KeyKind};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::version::{TLS12, TLS13};
use rustls::{CipherSuite, ServerConfig};

use super::files::{Site, read_authorities, read_site};
use super::ordered::Slot;
use super::tickets::Tickets;
use super::{Means, Wrong};

/// So many bytes of authorities' names are told to clients at most.
const AUTHORITY_NAMES_BYTES_MAX: usize = 8 * 1024;

/// Why a handshake that is well by itself is of no use, for requests to a target and for its checks.
pub(crate) const NO_HTTP2: &str =
    "the target does not agree on HTTP/2 (ALPN h2), which protocol = \"http2\" of its group wants";

/// What is spoken on a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    /// HTTP/1.1 and HTTP/1.0.
    Http1,
    /// HTTP/2.
    Http2,
}

impl Protocol {
    /// What clients of a service are offered that lets them speak HTTP/2 or does not, in the order of preference.
    pub(crate) const fn offered(http2: bool) -> &'static [Self] {
        if http2 { &[Self::Http2, Self::Http1] } else { &[Self::Http1] }
    }

    /// What the targets of a group are spoken to in that wants HTTP/2 or does not.
    pub(crate) const fn of(http2: bool) -> Self {
        if http2 { Self::Http2 } else { Self::Http1 }
    }

    /// Its name in TLS (RFC 7301).
    pub(crate) const fn alpn(self) -> &'static [u8] {
        match self {
            Self::Http1 => b"http/1.1",
            Self::Http2 => b"h2",
        }
    }

    /// What was agreed on; with a client that has asked for nothing it is HTTP/1.
    pub(crate) fn agreed(alpn: Option<&[u8]>) -> Self {
        let same = |protocol: &Self| alpn == Some(protocol.alpn());
        [Self::Http1, Self::Http2].into_iter().find(same).unwrap_or(Self::Http1)
    }
}

/// The TLS of a service.
#[derive(Debug)]
pub(crate) struct Termination {
    /// What handshakes are made with: of clients that would rather have AES, and of those that would rather have ChaCha20.
    configs: [Arc<ServerConfig>; 2],
    /// The certificates that the file names, in its order.
    pub(super) sites: Vec<Arc<Site>>,
    /// The place of the one that is ordered, if one is.
    ordered: Option<Arc<Slot>>,
    /// Who verifies clients, if they are asked for their certificates.
    verifier: Option<Arc<dyn ClientCertVerifier>>,
    /// A hash of what is wanted of clients.
    policy: [u8; 32],
}

impl Termination {
    /// Reads what the service needs, which may have a certificate ordered.
    pub(super) fn read(
        service: &str,
        (tls, ordered): (&Tls, Option<Arc<Slot>>),
        offered: &[Protocol],
        means: &Means<'_>,
        wrong: &mut Vec<Wrong>,
    ) -> Option<Self> {
        let &Means { provider, secret, now } = means;
        // All of them, so that everything that is wrong is told at once.
        let read: Vec<Option<Site>> =
            tls.certificates.iter().map(|files| read_site(files, provider, now, wrong)).collect();
        let clients = match &tls.clients {
            Some(clients) => Some(verifier(clients, provider, wrong)?),
            None => None,
        };
        let files: Vec<&FileAt> = tls.certificates.iter().map(|files| &files.certificate).collect();
        let sites: Option<Vec<Arc<Site>>> = read.into_iter().map(|site| site.map(Arc::new)).collect();
        let sites = sites?;
        let (choice, twice) = Choice::new(sites.iter().map(|site| (site.facts.names.as_slice(), site.kind)));
        for it in twice {
            let first = sites[it.first].file.display();
            let why = format!(
                "it is for {}, and so is {first} with a key of the same kind, which is used",
                it.name
            );
            wrong.push(Wrong::doubtful(files[it.second], why));
        }
        let mut versions = vec![&TLS13];
        if tls.min_version == TlsVersion::V12 {
            versions.push(&TLS12);
        }
        let (verifier, policy) =
            clients.map_or((None, [0; 32]), |(verifier, policy)| (Some(verifier), policy));
        let resolver = Arc::new(Resolver { choice, sites: sites.clone(), ordered: ordered.clone() });
        let tickets = match Tickets::new(secret.clone(), service.to_owned(), policy) {
            Ok(tickets) => Some(Arc::new(tickets)),
            Err(error) => {
                tracing::error!(service, %error, "TLS sessions cannot be gone on with");
                None
            }
        };
        let make = |rank: fn(CipherSuite) -> u8| {
            let builder = ServerConfig::builder_with_provider(Arc::new(in_order(provider, rank)))
                .with_protocol_versions(&versions)
                .expect("the provider has cipher suites for TLS 1.2 and 1.3");
            let builder = match &verifier {
                Some(verifier) => builder.with_client_cert_verifier(Arc::clone(verifier)),
                None => builder.with_no_client_auth(),
            };
            let certificates: Arc<dyn ResolvesServerCert> = Arc::<Resolver>::clone(&resolver);
            let mut config = builder.with_cert_resolver(certificates);
            config.alpn_protocols = offered.iter().map(|protocol| protocol.alpn().to_vec()).collect();
            // Some clients name what they are about to speak exactly, and take no other.
            config.alpn_protocols.push(b"http/1.0".to_vec());
            config.ignore_client_order = true;
            // Tickets are all that is needed to go on with a session, on either node.
            config.session_storage = Arc::new(NoServerSessionStorage {});
            if let Some(tickets) = &tickets {
                config.ticketer = Arc::<Tickets>::clone(tickets);
            }
            Arc::new(config)
        };
        let configs = [make(rank), make(rank_without_aes)];
        Some(Self { configs, sites, ordered, verifier, policy })
    }

    /// What a handshake is made with, of a client that would rather have ChaCha20 or would not.
    pub(crate) const fn config(&self, prefers_chacha20: bool) -> &Arc<ServerConfig> {
        let [config, with_chacha20_first] = &self.configs;
        if prefers_chacha20 { with_chacha20_first } else { config }
    }

    /// The certificates that clients get: those that the file names, in its order, and the one that was ordered, once it is there.
    pub(crate) fn shown(&self) -> Vec<Arc<Site>> {
        self.sites.iter().cloned().chain(self.ordered.as_ref().and_then(|slot| slot.site())).collect()
    }

    /// The place of the one that is ordered, if one is.
    pub(crate) const fn ordered(&self) -> Option<&Arc<Slot>> {
        self.ordered.as_ref()
    }

    /// Whether there is no certificate at all, because the only one is still ordered.
    pub(crate) fn has_none(&self) -> bool {
        self.sites.is_empty() && self.ordered.as_ref().is_none_or(|slot| slot.site().is_none())
    }

    /// Whether clients are asked for theirs.
    pub(crate) const fn asks_clients(&self) -> bool {
        self.verifier.is_some()
    }

    /// Whether only those get in that have one.
    pub(crate) fn requires_clients(&self) -> bool {
        self.verifier.as_ref().is_some_and(|verifier| verifier.client_auth_mandatory())
    }

    /// A hash of what is wanted of clients: the authorities, and whether each has to have a certificate. The service's own do not matter to it.
    pub(crate) const fn policy(&self) -> [u8; 32] {
        self.policy
    }

    /// Whether a client's chain of certificates is good at this moment.
    pub(crate) fn verifies(&self, chain: &[CertificateDer<'_>]) -> bool {
        let (Some(verifier), Some((certificate, intermediates))) = (&self.verifier, chain.split_first())
        else {
            return false;
        };
        verifier.verify_client_cert(certificate, intermediates, UnixTime::now()).is_ok()
    }
}

/// The provider with its cipher suites in the order in which clients that take several get one.
fn in_order(provider: &CryptoProvider, rank: fn(CipherSuite) -> u8) -> CryptoProvider {
    let mut provider = provider.clone();
    provider.cipher_suites.sort_by_key(|suite| rank(suite.suite()));
    provider
}

/// The place of a cipher suite in the order for clients that would rather have ChaCha20: without instructions for AES that costs them several
/// times as much, and a processor that has these not much more than AES.
const fn rank_without_aes(suite: CipherSuite) -> u8 {
    // Behind the last one there is what is first now.
    (rank(suite) + 1) % 3
}

/// The place of a cipher suite in that order. All are good; AES with 128 bits is the one that every client of TLS 1.3 has (RFC 8446, section
/// 9.1), as strong as the key exchange, and costs a processor with instructions for it least.
const fn rank(suite: CipherSuite) -> u8 {
    match suite {
        CipherSuite::TLS13_AES_128_GCM_SHA256
        | CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256
        | CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256 => 0,
        CipherSuite::TLS13_AES_256_GCM_SHA384
        | CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384
        | CipherSuite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384 => 1,
        _ => 2,
    }
}

/// Who verifies clients, and a hash of what that one wants.
fn verifier(
    clients: &ClientCertificates,
    provider: &Arc<CryptoProvider>,
    wrong: &mut Vec<Wrong>,
) -> Option<(Arc<dyn ClientCertVerifier>, [u8; 32])> {
    let (roots, mut bytes) = read_authorities(&clients.ca, wrong)?;
    let names: usize = roots.subjects().iter().map(|subject| subject.as_ref().len() + 2).sum();
    let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider));
    // They only help a client to choose, and have to fit into a buffer with the certificates.
    let builder =
        if names > AUTHORITY_NAMES_BYTES_MAX { builder.clear_root_hint_subjects() } else { builder };
    let builder = if clients.required { builder } else { builder.allow_unauthenticated() };
    let verifier = match builder.build() {
        Ok(verifier) => verifier,
        Err(error) => {
            wrong.push(Wrong::unusable(&clients.ca, format!("it cannot be used: {error}")));
            return None;
        }
    };
    bytes.push(u8::from(clients.required));
    Some((verifier, sha256(&bytes)))
}

/// SHA-256 of something.
pub(super) fn sha256(bytes: &[u8]) -> [u8; 32] {
    digest(&SHA256, bytes).as_ref().try_into().unwrap_or_default()
}

/// The same in hexadecimal, as people know a certificate by it.
pub(crate) fn fingerprint(certificate: &[u8]) -> String {
    sha256(certificate).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Which certificate a client got.
#[derive(Clone, Debug)]
pub(crate) struct Chosen {
    /// The certificate.
    pub(crate) site: Arc<Site>,
    /// The name that the client asked for, in lower case.
    pub(crate) server_name: Option<String>,
}

thread_local! {
    /// What was chosen last on this thread.
    static CHOSEN: RefCell<Option<Chosen>> = const { RefCell::new(None) };
}

/// What was chosen by the call that has just been made, if it has chosen. One such call serves one connection, and ends before the next.
pub(crate) fn chosen() -> Option<Chosen> {
    CHOSEN.take()
}

/// Chooses among the certificates of a service.
#[derive(Debug)]
struct Resolver {
    choice: Choice,
    sites: Vec<Arc<Site>>,
    ordered: Option<Arc<Slot>>,
}

impl Resolver {
    /// The certificate that was ordered, if a client that asks for this name gets that one: if it is for the name, or there is no other.
    fn ordered(&self, server_name: Option<&str>) -> Option<Arc<Site>> {
        let site = self.ordered.as_ref()?.site()?;
        let name = server_name.map(|name| name.strip_suffix('.').unwrap_or(name));
        let is_for_it = || name.is_some_and(|name| site.facts.covers(name));
        (self.sites.is_empty() || is_for_it()).then_some(site)
    }
}

impl ResolvesServerCert for Resolver {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let server_name = hello.server_name().map(str::to_ascii_lowercase);
        let (schemes, suites) = (hello.signature_schemes(), hello.cipher_suites());
        let takes = |site: &Site| {
            suites.iter().any(|suite| signs_in(*suite, site.kind))
                && site.certified.key.choose_scheme(schemes).is_some()
        };
        let listed = || self.choice.choose(server_name.as_deref(), |place| takes(&self.sites[place]));
        let site = match self.ordered(server_name.as_deref()) {
            // Without another one the handshake says what is wrong.
            Some(site) if self.sites.is_empty() || takes(&site) => site,
            _ => Arc::clone(&self.sites[listed()?]),
        };
        let certified = Arc::clone(site.certified());
        CHOSEN.set(Some(Chosen { site, server_name }));
        Some(certified)
    }
}

/// Whether a key of this kind signs the handshake of a cipher suite: in TLS 1.3 any does, in TLS 1.2 the suite says which.
fn signs_in(suite: CipherSuite, kind: KeyKind) -> bool {
    use CipherSuite as Suite;
    match suite {
        Suite::TLS13_AES_128_GCM_SHA256
        | Suite::TLS13_AES_256_GCM_SHA384
        | Suite::TLS13_CHACHA20_POLY1305_SHA256 => true,
        Suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256
        | Suite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384
        | Suite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256 => kind != KeyKind::Rsa,
        Suite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256
        | Suite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384
        | Suite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256 => kind == KeyKind::Rsa,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_protocol_is_what_was_agreed_on() {
        assert_eq!(Protocol::agreed(None), Protocol::Http1);
        assert_eq!(Protocol::agreed(Some(b"http/1.1")), Protocol::Http1);
        assert_eq!(Protocol::agreed(Some(b"h2")), Protocol::Http2);
    }

    #[test]
    fn the_cheapest_suite_of_each_version_and_key_comes_first_and_none_is_lost() {
        let before = super::super::provider();
        let order = |rank| {
            let ordered = in_order(&before, rank);
            assert_eq!(ordered.cipher_suites.len(), before.cipher_suites.len());
            ordered.cipher_suites.iter().map(|suite| suite.suite()).collect::<Vec<CipherSuite>>()
        };
        let (suites, without_aes) = (order(rank), order(rank_without_aes));
        let place_in = |all: &[CipherSuite], suite| all.iter().position(|it| *it == suite).unwrap();
        let place = |suite| place_in(&suites, suite);
        let other = |suite| place_in(&without_aes, suite);
        for [first, second, third] in [
            [
                CipherSuite::TLS13_AES_128_GCM_SHA256,
                CipherSuite::TLS13_AES_256_GCM_SHA384,
                CipherSuite::TLS13_CHACHA20_POLY1305_SHA256,
            ],
            [
                CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
                CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
                CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
            ],
            [
                CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
                CipherSuite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
                CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
            ],
        ] {
            assert!(place(first) < place(second) && place(second) < place(third));
            assert!(other(third) < other(first) && other(first) < other(second));
        }
    }

    #[test]
    fn a_suite_of_tls_1_2_says_who_signs() {
        let rsa = CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256;
        assert!(signs_in(rsa, KeyKind::Rsa) && !signs_in(rsa, KeyKind::Ecdsa));
        let ecdsa = CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256;
        assert!(!signs_in(ecdsa, KeyKind::Rsa) && signs_in(ecdsa, KeyKind::Ed25519));
        assert!(!signs_in(CipherSuite::TLS_RSA_WITH_AES_128_CBC_SHA, KeyKind::Rsa));
    }
}

//! Somebody on `b`'s host who means harm to the link between the `lbd`s (TCP 7112), and may even have the pair's key. Then `a` takes him for
//! `b`, and he can say whatever he likes.
//!
//! What he knows of the link is written down here once more, and not taken from `lbd`.

use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use common::hash::HashKey;
use common::key::{KeyUse, PairKey};
use integration::lab::anybody::Anybody;
use integration::lab::clock::now;
use integration::lab::config::KEY;
use integration::lab::{Host, Lab, Result};
use lbd_core::replication::{Replica, Settings};
use rustls::client::AlwaysResolvesClientRawPublicKeys;
use rustls::crypto::aws_lc_rs::{self, sign::any_eddsa_type};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName};
use rustls::sign::CertifiedKey;
use rustls::version::TLS13;
use rustls::{ClientConfig, ClientConnection, SignatureScheme, StreamOwned};
use socket2::{Domain, Protocol, Socket, Type};

/// How long he waits for anything.
const PATIENCE: Duration = Duration::from_secs(2);

/// What is spoken inside TLS.
const PROTOCOL: &[u8] = b"tandem-replication/1";

/// What stands before the 32 bytes of an Ed25519 seed in PKCS #8 (RFC 8410, section 7).
const PKCS8_HEAD: [u8; 16] =
    [0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20];

/// Far more than anybody is to keep of one connection, in bytes.
pub(crate) const HARM_BYTES: usize = 64 << 20;

/// A sign of life, as a message has it: a frame of three bytes, of version 1 and kind 1, with a configuration's hash.
const ALIVE: [u8; 7] = [3, 0, 0, 0, 1, 1, 9];

/// So many sessions have been begun by whoever says that he is `b`.
static SESSIONS: AtomicU64 = AtomicU64::new(0);

/// The pair's key.
pub(crate) fn key() -> PairKey {
    PairKey::parse(KEY).expect("the lab's key is one")
}

/// A connection from a host to `a`'s end of the link, with so much room for what is not read, in bytes.
pub(crate) fn connect(lab: &Lab, host: &Host, room: Option<usize>) -> Result<TcpStream> {
    let to = lab.a().peer_address();
    let open = || -> io::Result<TcpStream> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
        if let Some(room) = room {
            socket.set_recv_buffer_size(room)?;
        }
        socket.connect_timeout(&to.into(), PATIENCE)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.set_write_timeout(Some(PATIENCE))?;
        Ok(socket.into())
    };
    Ok(host.namespace().inside(open)?.expect("a's lbd listens"))
}

/// What is answered to these bytes until the connection is closed.
pub(crate) fn answer_to(mut stream: TcpStream, bytes: &[u8]) -> Vec<u8> {
    // It may be closed before all of that is taken.
    stream.write_all(bytes).and_then(|()| stream.shutdown(Shutdown::Write)).ok();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).ok();
    answer
}

/// The first bytes that a node sends.
pub(crate) fn client_hello() -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut client = client(&key()).expect("the key can be used");
    client.write_tls(&mut bytes).expect("there is memory");
    bytes
}

/// His session with `a`.
pub(crate) struct Impostor {
    stream: StreamOwned<ClientConnection, TcpStream>,
}

impl Impostor {
    /// Shows `b`'s key of this pair, and says that this connection is the session from now on, which the node whose name sorts last says.
    pub(crate) fn join(socket: TcpStream, key: &PairKey) -> io::Result<Self> {
        let mut stream = StreamOwned::new(client(key)?, socket);
        let mut ready = [0];
        stream.read_exact(&mut ready)?;
        if ready != *b"r" {
            return Err(io::Error::other(format!("a says {ready:?}")));
        }
        let number = SESSIONS.fetch_add(1, Ordering::Relaxed) + 1;
        let go = [&b"g"[..], &77_u64.to_le_bytes(), &number.to_le_bytes()].concat();
        stream.write_all(&go)?;
        Ok(Self { stream })
    }

    /// Writes these bytes into the session, whatever they are.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// Writes them past TLS.
    pub(crate) fn write_below(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.sock.write_all(bytes)
    }

    /// Writes much more than anybody is to keep, for as long as it is taken.
    pub(crate) fn pour(&mut self) -> io::Result<()> {
        let part = vec![0xaa; 1 << 16];
        (0..HARM_BYTES / part.len()).try_for_each(|_| self.write(&part))
    }

    /// Sends a message.
    pub(crate) fn say(&mut self, message: &[u8]) -> io::Result<()> {
        let length = u32::try_from(message.len()).expect("messages are short");
        self.write(&[&length.to_le_bytes()[..], message].concat())
    }

    /// Says what `b` would say first, in another life.
    pub(crate) fn greet(&mut self) -> io::Result<()> {
        let boot = SESSIONS.load(Ordering::Relaxed);
        let mut replica = Replica::new(Settings::new("b", boot, 0, HashKey::new([7; 16]), 1), now());
        replica.connected(now());
        let mut hello = Vec::new();
        assert!(replica.poll_transmit(now(), &mut hello), "it says who it is");
        self.say(&hello)
    }

    /// Gives a sign of life.
    pub(crate) fn live(&mut self) -> io::Result<()> {
        self.say(&ALIVE)
    }

    /// Says nothing more, without a word of goodbye.
    pub(crate) fn fall_silent(&mut self) -> io::Result<()> {
        self.stream.sock.shutdown(Shutdown::Write)
    }

    /// Waits until `a` has closed it, but not for long.
    pub(crate) fn wait_end(mut self) {
        let (begun, mut buffer) = (now(), [0; 4096]);
        while now() - begun < PATIENCE && self.stream.read(&mut buffer).is_ok_and(|length| length > 0) {}
    }
}

/// The end that connects, with `b`'s key of this pair; whose key the other end shows is all the same to him.
fn client(key: &PairKey) -> io::Result<ClientConnection> {
    let seed = key.derive_for_node(KeyUse::Replication, "b");
    let key = any_eddsa_type(&PrivatePkcs8KeyDer::from([&PKCS8_HEAD[..], &seed].concat()));
    let key = key.map_err(io::Error::other)?;
    let public = key.public_key().map(|public| public.as_ref().to_vec());
    let public = public.ok_or_else(|| io::Error::other("the key has no public part"))?;
    let own = CertifiedKey::new(vec![CertificateDer::from(public)], key);
    let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&TLS13])
        .map_err(io::Error::other)?
        .dangerous();
    let anybody = Anybody { scheme: SignatureScheme::ED25519, raw_public_keys: true };
    let mut config = builder
        .with_custom_certificate_verifier(Arc::new(anybody))
        .with_client_cert_resolver(Arc::new(AlwaysResolvesClientRawPublicKeys::new(Arc::new(own))));
    config.enable_sni = false;
    config.alpn_protocols = vec![PROTOCOL.to_vec()];
    let name = ServerName::from(std::net::IpAddr::from([10, 0, 255, 1]));
    ClientConnection::new(Arc::new(config), name).map_err(io::Error::other)
}

//! Ends of TLS connections.

use std::fs;
use std::io::{self, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use rustls::client::WantsClientCert;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{
    ClientConfig, ClientConnection, ConfigBuilder, RootCertStore, ServerConfig, ServerConnection,
    StreamOwned, crypto,
};

use super::super::peers::{Message, read_message};
use crate::real::Authority;
use crate::support::{connect, patient};

fn provider() -> Arc<crypto::CryptoProvider> {
    Arc::new(crypto::aws_lc_rs::default_provider())
}

/// What a client trusts and speaks.
pub(crate) fn client_config(authority: &Authority) -> Arc<ClientConfig> {
    Arc::new(trusting(authority).with_no_client_auth())
}

fn trusting(authority: &Authority) -> ConfigBuilder<ClientConfig, WantsClientCert> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(authority.file()).unwrap()).unwrap();
    ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(rustls::ALL_VERSIONS)
        .unwrap()
        .with_root_certificates(roots)
}

fn chain_and_key(bundle: &Path) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
    let chain = CertificateDer::pem_file_iter(bundle).unwrap().collect::<Result<Vec<_>, _>>().unwrap();
    (chain, PrivateKeyDer::from_pem_file(bundle).unwrap())
}

/// A client's connection.
pub(super) struct Client {
    stream: BufReader<StreamOwned<ClientConnection, TcpStream>>,
}

impl Client {
    /// Asks for `name`.
    pub(super) fn new(authority: &Authority, address: SocketAddr, name: &str) -> Self {
        Self::with(client_config(authority), address, name)
    }

    /// The same, and shows the certificate in a bundle.
    pub(super) fn showing(bundle: &Path, authority: &Authority, address: SocketAddr, name: &str) -> Self {
        let (chain, key) = chain_and_key(bundle);
        let config = trusting(authority).with_client_auth_cert(chain, key).unwrap();
        Self::with(Arc::new(config), address, name)
    }

    fn with(config: Arc<ClientConfig>, address: SocketAddr, name: &str) -> Self {
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let tls = ClientConnection::new(config, name).unwrap();
        Self { stream: BufReader::new(StreamOwned::new(tls, connect(address))) }
    }

    pub(super) fn send(&mut self, bytes: impl AsRef<[u8]>) -> &mut Self {
        self.stream.get_mut().write_all(bytes.as_ref()).ok();
        self
    }

    pub(super) fn answer(&mut self) -> Message {
        read_message(&mut self.stream, false).unwrap().expect("an answer")
    }

    pub(super) fn read(&mut self, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.stream.read_exact(&mut bytes).unwrap();
        bytes
    }

    /// All until the end that the other end has said; an error if it has not.
    pub(super) fn rest(&mut self) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.stream.read_to_end(&mut bytes).map(|_| bytes)
    }

    /// Says that nothing more is sent, by TLS and then by TCP.
    pub(super) fn finish(&mut self) {
        let stream = self.stream.get_mut();
        stream.conn.send_close_notify();
        stream.flush().unwrap();
        stream.sock.shutdown(std::net::Shutdown::Write).unwrap();
    }

    /// The connection beneath.
    pub(super) fn raw(&mut self) -> &mut TcpStream {
        &mut self.stream.get_mut().sock
    }

    /// The certificate that was shown.
    pub(super) fn certificate(&self) -> Vec<u8> {
        self.stream.get_ref().conn.peer_certificates().unwrap()[0].to_vec()
    }
}

/// A target's end of a connection.
pub(crate) type Served = BufReader<StreamOwned<ServerConnection, TcpStream>>;

/// A target with TLS that does with each connection what it is told.
pub(crate) fn target(
    ip: Ipv4Addr,
    bundle: &Path,
    serve: impl Fn(&mut Served) -> io::Result<()> + Send + Sync + 'static,
) -> SocketAddr {
    let (chain, key) = chain_and_key(bundle);
    let config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(rustls::ALL_VERSIONS)
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    let (config, serve) = (Arc::new(config), Arc::new(serve));
    let listener = TcpListener::bind((ip, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(stream) = stream else { return };
            let (config, serve) = (Arc::clone(&config), Arc::clone(&serve));
            std::thread::spawn(move || {
                patient(&stream);
                let tls = ServerConnection::new(config).unwrap();
                // What becomes of it is seen at the other end.
                serve(&mut BufReader::new(StreamOwned::new(tls, stream))).ok();
            });
        }
    });
    address
}

/// What `openssl s_client` prints that sends this request. It ends when the other end does.
pub(super) fn s_client(address: SocketAddr, arguments: &str, request: &str) -> String {
    let mut command = Command::new("openssl");
    command.args(["s_client", "-connect", &address.to_string(), "-ign_eof"]);
    command.args(arguments.split(' ').filter(|argument| !argument.is_empty()));
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("openssl runs");
    // It may have ended already.
    child.stdin.take().unwrap().write_all(request.as_bytes()).ok();
    let output = child.wait_with_output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    String::from_utf8_lossy(&text).into_owned()
}

/// A request that ends the connection.
pub(super) const LAST: &str = "GET /last HTTP/1.1\r\nHost: shop.example\r\nConnection: close\r\n\r\n";

/// What curl prints and how it ends: `shop.example` and others are found at `address`. It speaks HTTP/1.1 unless it is told otherwise.
pub(crate) fn curl(authority: &Authority, address: SocketAddr, arguments: &[&str]) -> (bool, String) {
    let connect = format!("::{address}");
    let output = Command::new("curl")
        .args(["-sS", "--max-time", "20", "--http1.1", "--connect-to", &connect, "--cacert"])
        .arg(authority.file())
        .args(arguments)
        .output()
        .expect("curl runs");
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&text).into_owned())
}

/// The bytes of a file.
pub(super) fn bytes(path: &Path) -> Vec<u8> {
    fs::read(path).unwrap()
}

//! The begin of a client's encrypted connection.

use std::cell::Cell;
use std::io;
use std::net::Shutdown;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use lbd_core::http::answer::Answer;
use lbd_core::http::pass_on::{Afterwards, Shown};
use lbd_core::tls::{Certificate, prefers_chacha20};
use rustls::pki_types::CertificateDer;
use rustls::server::UnbufferedServerConnection;
use rustls::{HandshakeKind, ProtocolVersion};
use socket2::SockRef;

use super::secure::{Broken, Secure};
use super::site::response_changes;
use super::stream::Inbound;
use super::transport::Transport;
use super::watch::{Watch, Why};
use crate::clock::unix_now;
use crate::executor::Ready;
use crate::l4::{Ends, Seat, Socket};
use crate::tls::{Chosen, Failure, Protocol, Termination, chosen, fingerprint};

/// How long, and how much, is still read of a client that was refused, so that it learns why.
const LINGER: Duration = Duration::from_secs(2);
const LINGER_BYTES_MAX: usize = 64 * 1024;

/// A longer name of a client's is not told to targets, which have bounds of their own; its certificate's hash is.
const SUBJECT_BYTES_MAX: usize = 2048;

/// What is known of an encrypted connection beside its bytes.
pub(super) struct Encrypted {
    chosen: Option<Chosen>,
    client: Identity,
    /// What the service wanted of its clients when it was looked at last, and whether this one has that.
    judged: Cell<([u8; 32], bool)>,
    /// What was agreed on to be spoken.
    pub(super) protocol: Protocol,
    /// The version of TLS.
    pub(super) version: &'static str,
}

/// Who the client has shown to be.
enum Identity {
    NotAsked,
    Nothing,
    Certificate { subject: String, sha256: String, chain: Box<[CertificateDer<'static>]> },
}

impl Encrypted {
    /// Whether the client would be let in by what the service wants of clients now, which may be something else than when it came.
    pub(super) fn may_stay(&self, termination: &Termination) -> bool {
        let (policy, good) = self.judged.get();
        if policy == termination.policy() {
            return good;
        }
        let good = match &self.client {
            // It may have had one to show.
            Identity::NotAsked => !termination.asks_clients(),
            Identity::Nothing => !termination.requires_clients(),
            Identity::Certificate { chain, .. } => !termination.asks_clients() || termination.verifies(chain),
        };
        self.judged.set((termination.policy(), good));
        good
    }

    /// Whether a host may be asked for here. RFC 9110, section 7.4: "a request that is misdirected" is one that comes to a server which
    /// "is not authoritative for the target URI"; who has asked for one name may use the connection for others that its certificate is
    /// for (RFC 9113, section 9.1.1), and who has asked for none may have had no choice.
    pub(super) fn is_for(&self, host: &str) -> bool {
        let Some(Chosen { site, server_name: Some(name) }) = &self.chosen else { return true };
        let name = name.strip_suffix('.').unwrap_or(name);
        host.is_empty() || host == name || site.facts.covers(host)
    }

    /// What targets are told of the client.
    pub(super) fn shown(&self) -> Shown<'_> {
        match &self.client {
            Identity::NotAsked => Shown::NotAsked,
            Identity::Nothing => Shown::Nothing,
            Identity::Certificate { subject, sha256, .. } => Shown::Certificate { subject, sha256 },
        }
    }

    /// The name that the client asked for.
    pub(super) fn server_name(&self) -> Option<&str> {
        self.chosen.as_ref()?.server_name.as_deref()
    }
}

/// Makes the handshake with a client, of which `ahead` has been read. Without one the client has been told why, and that was counted.
pub(super) async fn accept(
    seat: &Seat,
    client: Socket,
    ahead: Vec<u8>,
    ends: &Ends,
    watch: &Watch,
    termination: &Termination,
) -> Option<(Transport, Encrypted)> {
    watch.set_free();
    watch.limit(seat.route.service.config.timeout.header);
    let mut incoming = Inbound::new(ahead, &seat.worker.buffers);
    let told = std::future::poll_fn(|context| poll_preference(context, &client, &mut incoming));
    let prefers_chacha20 = match watch.wait(told).await {
        Ok(prefers) => prefers,
        Err(Why::Due) => {
            refuse(seat, &client, (ends, watch), None, termination.has_none()).await;
            return None;
        }
        // Nobody's failure.
        Err(Why::Drained | Why::Stopped) => return None,
    };
    let connection = match UnbufferedServerConnection::new(Arc::clone(termination.config(prefers_chacha20))) {
        Ok(connection) => connection,
        Err(error) => {
            tracing::error!(service = seat.route.service.config.name, %error, "no TLS connection can be made");
            return None;
        }
    };
    let secure = Secure::server(client, connection, incoming, &seat.worker.buffers);
    let mut choice = None;
    let handshake = std::future::poll_fn(|context| {
        secure.poll_handshake(context, || {
            // The same call has had it chosen.
            if let Some(chosen) = chosen() {
                choice = Some(chosen);
            }
        })
    });
    let made = watch.wait(handshake).await;
    let broken = match made {
        Ok(Ok(())) if !is_still_who_it_was(&secure, termination) => {
            seat.counters().http.tls.failures[Failure::ClientCertificate.index()].add(1);
            return None;
        }
        Ok(Ok(())) => {
            let encrypted = Encrypted {
                chosen: choice,
                client: identity(&secure, termination),
                judged: Cell::new((termination.policy(), true)),
                protocol: secure.with(|state| Protocol::agreed(state.alpn_protocol())),
                version: secure.with(|state| match state.protocol_version() {
                    Some(ProtocolVersion::TLSv1_3) => "1.3",
                    _ => "1.2",
                }),
            };
            count(seat, &secure);
            return Some((Transport::Tls(Box::new(secure)), encrypted));
        }
        Ok(Err(broken)) => Some(broken),
        Err(Why::Due) => None,
        // Nobody's failure.
        Err(Why::Drained | Why::Stopped) => return None,
    };
    refuse(seat, &secure.socket, (ends, watch), broken, termination.has_none()).await;
    None
}

/// Waits until what a client has sent tells whether it would rather have ChaCha20 than AES. What it has read stays for the handshake.
fn poll_preference(context: &Context<'_>, client: &Socket, incoming: &mut Inbound) -> Poll<bool> {
    loop {
        if let Some(prefers) = prefers_chacha20(incoming.bytes()) {
            return Poll::Ready(prefers);
        }
        if client.poll(context, Ready::READABLE).is_pending() {
            incoming.settle();
            return Poll::Pending;
        }
        match incoming.fill(|room| client.try_read(room)) {
            Ok(1..) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            // The handshake finds out the same, and tells of it.
            Ok(0) | Err(_) => return Poll::Ready(false),
        }
    }
}

/// Whether the certificate of a client that goes on with a session is still good. A ticket holds what was verified when the session began,
/// and so would each one that follows it: whoever comes back in time would be let in for ever.
fn is_still_who_it_was(secure: &Secure, termination: &Termination) -> bool {
    secure.with(|state| {
        let resumed = state.handshake_kind() == Some(HandshakeKind::Resumed);
        match state.peer_certificates() {
            Some(chain) if resumed => termination.verifies(chain),
            _ => true,
        }
    })
}

fn count(seat: &Seat, secure: &Secure) {
    let (version, resumed) = secure.with(|state| {
        let old = state.protocol_version() != Some(ProtocolVersion::TLSv1_3);
        (usize::from(!old), usize::from(state.handshake_kind() == Some(HandshakeKind::Resumed)))
    });
    seat.counters().http.tls.handshakes[version][resumed].add(1);
}

fn identity(secure: &Secure, termination: &Termination) -> Identity {
    if !termination.asks_clients() {
        return Identity::NotAsked;
    }
    secure.with(|state| {
        let Some(chain @ [certificate, ..]) = state.peer_certificates() else { return Identity::Nothing };
        // One that was verified can be read.
        let subject = Certificate::parse(certificate).map(|facts| facts.subject).unwrap_or_default();
        let subject = if subject.len() > SUBJECT_BYTES_MAX { String::new() } else { subject };
        Identity::Certificate { subject, sha256: fingerprint(certificate), chain: chain.into() }
    })
}

/// Tells the client why there is no connection. `none`: there is no certificate to make one with.
async fn refuse(
    seat: &Seat,
    socket: &Socket,
    (ends, watch): (&Ends, &Watch),
    broken: Option<Broken>,
    none: bool,
) {
    let (failure, why) = match &broken {
        None => (Failure::Timeout, None),
        Some(Broken::Tls(error)) => match Failure::of(error) {
            Failure::Local if none => {
                (Failure::NoCertificate, Some("the certificate that is ordered is not there yet".to_owned()))
            }
            failure => (failure, Some(error.to_string())),
        },
        Some(Broken::PlainHttp) => (Failure::PlainHttp, None),
        Some(Broken::TooLong) => (Failure::TooLong, None),
        Some(Broken::Closed) => (Failure::Closed, None),
    };
    seat.counters().http.tls.failures[failure.index()].add(1);
    if let Some(unsaid) = seat.route.complaints.due(seat.worker.clock().now_ms()) {
        let (service, client, why) = (&seat.route.service.config.name, ends.client, why.unwrap_or_default());
        tracing::debug!(service, %client, unsaid, kind = failure.name(), "no TLS handshake: {why}");
    }
    if failure == Failure::PlainHttp
        && let Some(http) = &seat.route.service.config.http
    {
        let mut bytes = Vec::new();
        let body = "400 Bad Request\nThis port speaks TLS only: ask for https:// instead of http://.\n";
        let answer = Answer { body, ..Answer::plain(400) };
        answer.write(false, Afterwards::Closed, response_changes(http), unix_now(), &mut bytes);
        // A new connection has room for it, as good as always.
        drop(socket.try_write(&bytes, true));
    }
    if matches!(broken, Some(Broken::Tls(_) | Broken::PlainHttp)) {
        linger(socket, watch).await;
    }
}

/// Closes the connection so that what was sent last arrives, whatever the client still sends.
async fn linger(socket: &Socket, watch: &Watch) {
    if SockRef::from(socket).shutdown(Shutdown::Write).is_err() {
        return;
    }
    watch.limit(LINGER);
    let (mut left, mut scrap) = (LINGER_BYTES_MAX, [0; 1024]);
    let drained = std::future::poll_fn(|context| {
        loop {
            if socket.poll(context, Ready::READABLE).is_pending() {
                return Poll::Pending;
            }
            match socket.try_read(&mut scrap) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Ok(count @ 1..) if count < left => left -= count,
                _ => return Poll::Ready(()),
            }
        }
    });
    watch.wait(drained).await.ok();
}

//! New connections to targets, with what has to come before a request.

use std::future::poll_fn;
use std::sync::Arc;

use common::config::ProxyVersion;
use lbd_core::proxy_protocol;
use rustls::client::UnbufferedClientConnection;
use rustls::{AlertDescription, CertificateError, CommonState, Error};

use super::secure::{Broken, Secure};
use super::session::Session;
use super::transport::Transport;
use crate::l4::{Ends, Occupied, Refusal, Socket, connect};
use crate::snapshot::FailureKind;
use crate::tls::{NO_HTTP2, Origin, Protocol};

/// Writes the header that names the client.
pub(super) fn introduce(version: ProxyVersion, ends: &Ends, out: &mut Vec<u8>) {
    let version = match version {
        ProxyVersion::V1 => proxy_protocol::Version::V1,
        ProxyVersion::V2 => proxy_protocol::Version::V2,
    };
    proxy_protocol::emit(version, ends.client, ends.local, out);
}

/// A new connection to the target, encrypted if its group wants that. In clear text nothing was said on it; otherwise a header that names the
/// client has gone before the handshake, if the group wants one.
///
/// # Errors
/// Why there is none.
pub(super) async fn connected(
    session: &Session,
    ends: &Ends,
    occupied: &Occupied,
) -> Result<Transport, Refusal> {
    let group = &occupied.pool.group;
    let socket = connect(&session.seat, &occupied.target, ends, true).await?;
    match &group.tls {
        // As with certificates: nothing goes in clear text that is not meant to.
        None if group.config.tls.is_some() => Err(Refusal::ConnectFailed),
        None => Ok(Transport::Clear(socket)),
        // Rare and large, so not a part of every connection's task.
        Some(origin) => Box::pin(encrypted(session, ends, socket, occupied, origin)).await,
    }
}

/// Makes the handshake with a target, behind the header that names the client if there is one. What goes wrong is the target's failure
/// to be connected.
async fn encrypted(
    session: &Session,
    ends: &Ends,
    socket: Socket,
    occupied: &Occupied,
    origin: &Origin,
) -> Result<Transport, Refusal> {
    let worker = &session.seat.worker;
    let group = &occupied.pool.group.config;
    let target = &occupied.target;
    let name = origin.server_name(target.key.address);
    let made = UnbufferedClientConnection::new(Arc::clone(&origin.config), name);
    let mut header = Vec::new();
    if let Some(version) = group.send_proxy {
        introduce(version, ends, &mut header);
    }
    let handshake = async {
        socket.write_all(&header).await.map_err(|_| Broken::Closed)?;
        let secure = Secure::client(socket, made.map_err(Broken::Tls)?, &worker.buffers);
        poll_fn(|context| secure.poll_handshake(context, || {})).await?;
        Ok::<Secure, Broken>(secure)
    };
    let limit = session.seat.route.service.config.timeout.connect;
    let counters = target.counters.of(worker.index);
    let (why, refusal) = match worker.executor.timeout(limit, handshake).await {
        // RFC 9113, section 3.2: without it the target would take what follows for something else.
        Some(Ok(secure)) if group.http2 && !secure.with(speaks_http2) => {
            (NO_HTTP2.to_owned(), Refusal::ConnectFailed)
        }
        Some(Ok(secure)) => {
            target.set_tls_failure(None);
            return Ok(Transport::Tls(Box::new(secure)));
        }
        Some(Err(Broken::Tls(Error::AlertReceived(AlertDescription::NoApplicationProtocol))))
            if group.http2 =>
        {
            (NO_HTTP2.to_owned(), Refusal::ConnectFailed)
        }
        Some(Err(broken)) => (reason(&broken), Refusal::ConnectFailed),
        None => ("it took longer than timeout.connect".to_owned(), Refusal::ConnectTimeout),
    };
    counters.tls_errors.add(1);
    target.report_failure(FailureKind::Tls);
    if let Some(unsaid) = session.seat.route.troubles.due(worker.clock().now_ms()) {
        let service = &session.seat.route.service.config.name;
        tracing::warn!(service, target = %target.key, unsaid, "no TLS handshake with the target: {why}");
    }
    target.set_tls_failure(Some(why));
    Err(refusal)
}

fn speaks_http2(state: &CommonState) -> bool {
    Protocol::agreed(state.alpn_protocol()) == Protocol::Http2
}

/// Why there was no handshake, in words.
fn reason(broken: &Broken) -> String {
    use CertificateError as Bad;
    let error = match broken {
        Broken::Tls(error) => error,
        Broken::PlainHttp => return "the answer is not TLS".to_owned(),
        Broken::TooLong => return "the target says more than anybody has to say".to_owned(),
        Broken::Closed => return "the target closed the connection".to_owned(),
    };
    match error {
        Error::InvalidCertificate(bad) => match bad {
            Bad::Expired | Bad::ExpiredContext { .. } => "its certificate has expired".to_owned(),
            Bad::NotValidYet | Bad::NotValidYetContext { .. } => {
                "its certificate is not valid yet".to_owned()
            }
            Bad::UnknownIssuer => {
                "its certificate is not signed by any authority of ca_file, or of this host".to_owned()
            }
            Bad::NotValidForNameContext { expected, .. } => {
                format!("its certificate is not for {}", expected.to_str())
            }
            Bad::Other(other) => other.to_string(),
            other => other.to_string(),
        },
        Error::InvalidMessage(_) => "the answer is not TLS".to_owned(),
        Error::AlertReceived(alert) => format!("refused by the target: {alert:?}"),
        Error::PeerIncompatible(why) => format!("no version or cipher suite in common ({why:?})"),
        other => other.to_string(),
    }
}

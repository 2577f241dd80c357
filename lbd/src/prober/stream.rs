//! A check's connection: closed with a reset, and with a bound on what is read from it.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use common::config::ProxyVersion;
use lbd_core::check::{Failure, Stage};
use lbd_core::forward::plan::Through;
use lbd_core::proxy_protocol::{self, Version};
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpSocket, TcpStream};

use super::{client, tls};
use crate::process::is_local;

/// The most that a check reads, in bytes: handshake, framing and chunk sizes around the 16 KiB of head and 64 KiB of body that
/// are looked at.
pub(super) const READ_BYTES_MAX: usize = 512 * 1024;

/// A connection that fails once [`READ_BYTES_MAX`] have been read.
#[derive(Debug)]
pub(super) struct Stream {
    inner: TcpStream,
    left: usize,
}

/// What [`Stream`] says of an other end that sends without end. No socket says so, and a kind goes through every layer.
const FLOOD: io::ErrorKind = io::ErrorKind::FileTooLarge;

/// Where a check's connection goes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Destination {
    /// The address.
    pub(super) address: SocketAddr,
    /// What makes it a client's on its way to the target; none for a connection to the target's own address.
    pub(super) through: Option<Through>,
    /// What it has to begin with: a target that expects a PROXY header takes nothing else.
    pub(super) send_proxy: Option<ProxyVersion>,
}

/// Connects.
pub(super) async fn connect(to: Destination) -> Result<Stream, Failure> {
    let failed = |error: &io::Error| {
        if is_local(error) { Failure::Local(text(error)) } else { Failure::Connect(text(error)) }
    };
    let socket = open(&to).map_err(|error| Failure::Local(text(&error)))?;
    let mut inner = socket.connect(to.address).await.map_err(|error| failed(&error))?;
    if let Some(version) = to.send_proxy {
        let version = match version {
            ProxyVersion::V1 => Version::V1,
            ProxyVersion::V2 => Version::V2,
        };
        let mut header = Vec::new();
        proxy_protocol::emit_local(version, &mut header);
        inner.write_all(&header).await.map_err(|error| failed(&error))?;
    }
    Ok(Stream { inner, left: READ_BYTES_MAX })
}

fn open(to: &Destination) -> io::Result<TcpSocket> {
    let socket = if to.address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_zero_linger()?;
    // Answers in several small writes would wait for delayed acknowledgements.
    socket.set_nodelay(true)?;
    if let Some(through) = &to.through {
        client::be(SockRef::from(&socket), through)?;
        client::limit_segments(SockRef::from(&socket), through)?;
    }
    Ok(socket)
}

/// What an error of a connection means at this stage.
pub(super) fn failure(error: &io::Error, stage: Stage) -> Failure {
    if let Some(error) = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        return tls::failure(error);
    }
    match error.kind() {
        FLOOD => Failure::TooLarge(READ_BYTES_MAX, "answer"),
        io::ErrorKind::UnexpectedEof => Failure::Closed(stage),
        _ if is_local(error) => Failure::Local(text(error)),
        _ => Failure::Broken(text(error)),
    }
}

/// An error in words, without its number.
pub(super) fn text(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(libc::EMFILE | libc::ENFILE) => "too many open files".to_owned(),
        Some(libc::EADDRNOTAVAIL) => "no free local port".to_owned(),
        Some(libc::ECONNRESET | libc::EPIPE) => "connection reset".to_owned(),
        Some(_) => error.kind().to_string(),
        None => error.to_string(),
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.left == 0 {
            return Poll::Ready(Err(FLOOD.into()));
        }
        let before = buf.filled().len();
        let result = Pin::new(&mut self.inner).poll_read(cx, buf);
        self.left = self.left.saturating_sub(buf.filled().len().saturating_sub(before));
        result
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

//! Serving HTTP/1.1 with bounds: connections, header time and size, and the life of a connection.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{Semaphore, mpsc};

use super::Token;
use super::handlers::{Access, router};
use crate::reload::Request;
use crate::shared::Shared;

/// Connections at the same time on each of the two sockets; more are closed at once and counted. The Unix socket has its
/// own, so that nobody on TCP can shut the administrator out.
const CONNECTIONS_MAX: usize = 64;

/// A request's head must have come within this time, also that of the next one on a kept connection.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);

/// A connection is closed after this time, whatever it does.
const CONNECTION_MAX: Duration = Duration::from_secs(120);

/// The largest request head in bytes.
const HEADER_BYTES_MAX: usize = 16 * 1024;

/// After a failure to accept.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves both sockets.
#[derive(Debug)]
pub(super) struct Server {
    shared: Arc<Shared>,
    tcp: Arc<Semaphore>,
    unix: Arc<Semaphore>,
    tcp_router: Router,
    unix_router: Router,
}

impl Server {
    pub(super) fn new(shared: Arc<Shared>, requests: mpsc::Sender<Request>, token: Token) -> Self {
        let tcp_router = router(Arc::clone(&shared), requests.clone(), Access::Token(token));
        let unix_router = router(Arc::clone(&shared), requests, Access::All);
        let permits = || Arc::new(Semaphore::new(CONNECTIONS_MAX));
        Self { shared, tcp: permits(), unix: permits(), tcp_router, unix_router }
    }

    /// Serves the TCP socket until aborted.
    pub(super) async fn serve_tcp(self: Arc<Self>, listener: TcpListener) {
        loop {
            let accepted = listener.accept().await.map(|(stream, _)| stream);
            self.accepted(accepted, &self.tcp, &self.tcp_router).await;
        }
    }

    /// Serves the Unix socket until aborted.
    pub(super) async fn serve_unix(self: Arc<Self>, listener: UnixListener) {
        loop {
            let accepted = listener.accept().await.map(|(stream, _)| stream);
            self.accepted(accepted, &self.unix, &self.unix_router).await;
        }
    }

    async fn accepted<S>(&self, accepted: io::Result<S>, permits: &Arc<Semaphore>, router: &Router)
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let stream = match accepted {
            Ok(stream) => stream,
            Err(error) => {
                tracing::warn!(%error, "cannot accept API connections for now");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                return;
            }
        };
        let Ok(permit) = Arc::clone(permits).try_acquire_owned() else {
            self.shared.control.api_refused.add(1);
            return;
        };
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEADER_TIMEOUT)
            .max_header_size(HEADER_BYTES_MAX)
            .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router.clone()));
        tokio::spawn(async move {
            let _permit = permit;
            match tokio::time::timeout(CONNECTION_MAX, connection).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::debug!(%error, "an API connection ended with an error"),
                Err(_) => tracing::debug!("an API connection was open for too long"),
            }
        });
    }
}

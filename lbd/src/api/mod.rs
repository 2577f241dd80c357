//! The HTTP API: on TCP for reading, on the Unix socket also for changes.

mod flows;
mod handlers;
mod refresh;
mod server;
mod sticky;
mod targets;

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use common::config::{Api, TokenFileError, load_token};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::process;
use crate::reload::Request;
use crate::shared::Shared;

/// Why the API cannot be served.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ApiError {
    /// No socket.
    #[error(
        "cannot serve the API on {address}: {source}; change `lbd` under [api], or stop what listens there"
    )]
    Bind {
        /// Its address.
        address: SocketAddr,
        /// What failed.
        source: io::Error,
    },
    /// No Unix socket.
    #[error("cannot serve the API on {}: {source}", path.display())]
    Unix {
        /// Its path.
        path: PathBuf,
        /// What failed.
        source: io::Error,
    },
    /// No token.
    #[error(transparent)]
    Token(#[from] TokenFileError),
}

/// The token that allows changes over TCP, if there is one.
type Token = Arc<ArcSwapOption<String>>;

/// The running API.
#[derive(Debug)]
pub(crate) struct ApiServer {
    tcp: Option<(SocketAddr, JoinHandle<()>)>,
    token: Token,
    server: Arc<server::Server>,
}

/// A change of the API's settings that can no longer fail.
#[derive(Debug)]
pub(crate) struct ApiChange {
    /// A socket for a new address.
    tcp: Option<(SocketAddr, TcpListener)>,
    token: Option<String>,
}

impl ApiServer {
    /// Serves the API as the configuration in `shared` says.
    pub(crate) async fn start(
        shared: &Arc<Shared>,
        requests: mpsc::Sender<Request>,
    ) -> Result<Self, ApiError> {
        let token = Token::default();
        let server = Arc::new(server::Server::new(Arc::clone(shared), requests, Arc::clone(&token)));
        let mut api = Self { tcp: None, token, server };
        let config = Arc::clone(&shared.snapshot.load().config);
        let change = api.prepare(&config.api).await?;
        // Last of what can fail: a file is left behind where a port is not.
        let unix = process::bind_unix(&shared.run_dir)
            .map_err(|source| ApiError::Unix { path: process::socket_path(&shared.run_dir), source })?;
        api.apply(change);
        tokio::spawn(Arc::clone(&api.server).serve_unix(unix));
        Ok(api)
    }

    /// Gets everything that new settings need.
    pub(crate) async fn prepare(&self, config: &Api) -> Result<ApiChange, ApiError> {
        let token = load_token(config)?;
        let address = config.lbd;
        if self.tcp.as_ref().is_some_and(|(current, _)| *current == address) {
            return Ok(ApiChange { tcp: None, token });
        }
        let listener =
            TcpListener::bind(address).await.map_err(|source| ApiError::Bind { address, source })?;
        Ok(ApiChange { tcp: Some((address, listener)), token })
    }

    /// Uses new settings. Requests under way are finished.
    pub(crate) fn apply(&mut self, change: ApiChange) {
        self.token.store(change.token.map(Arc::new));
        if let Some((address, listener)) = change.tcp {
            if let Some((_, old)) = self.tcp.take() {
                old.abort();
            }
            let task = tokio::spawn(Arc::clone(&self.server).serve_tcp(listener));
            self.tcp = Some((address, task));
        }
    }
}

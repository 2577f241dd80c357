//! The HTTP API: on TCP for reading, on the Unix socket also for changes.

mod flows;
mod handlers;
mod refresh;
mod server;
mod sticky;
mod targets;

use std::fs;
use std::io::{self, Read};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use common::config::Api;
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
    #[error("cannot read the API's token file {}: {source}", path.display())]
    Token {
        /// The file.
        path: PathBuf,
        /// What failed.
        source: io::Error,
    },
    /// An empty token.
    #[error("the first line of the API's token file {} is empty; write a secret of 16 or more characters there", path.display())]
    EmptyToken {
        /// The file.
        path: PathBuf,
    },
}

/// The token that allows changes over TCP, if there is one.
type Token = Arc<ArcSwapOption<String>>;

/// A token file is read up to this length.
const TOKEN_BYTES_MAX: u64 = 4096;

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
        let token = config.token_file.as_ref().map(read_token).transpose()?;
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

pub(crate) fn read_token(path: &PathBuf) -> Result<String, ApiError> {
    let read = || {
        let mut text = String::new();
        fs::File::open(path)?.take(TOKEN_BYTES_MAX).read_to_string(&mut text).map(|_| text)
    };
    let text = read().map_err(|source| ApiError::Token { path: path.clone(), source })?;
    let token = text.lines().next().unwrap_or_default().trim();
    if token.is_empty() {
        return Err(ApiError::EmptyToken { path: path.clone() });
    }
    Ok(token.to_owned())
}

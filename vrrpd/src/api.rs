//! The HTTP API: reading for everyone who reaches it, changes for those who may.
//!
//! It is served on the Unix socket `vrrpd.sock` in the run directory (mode 0600, everything allowed) and on TCP
//! (`[api] vrrpd`; reading only, unless the request carries the bearer token of `token_file`). Everything runs on one
//! thread of normal priority that shares nothing with the real-time loop but the status and the queues, so that a flood
//! of requests cannot disturb it.
//!
//! | request | answer |
//! |---|---|
//! | `GET /v1/role` | `{"web":"active"}` |
//! | `GET /v1/role/web` | `{"role":"active"}` |
//! | `GET /v1/status` | everything, see [`vrrpd_core::status::NodeStatus`] |
//! | `GET /v1/events?after=ID` | the log, or a stream with `Accept: text/event-stream` |
//! | `POST /v1/switchover` `{"instance":"web"}` | `{"instance":"web","active":"b","took_ms":3}` |
//! | `POST /v1/maintenance` `{"on":true}` | `{"on":true}` |
//! | `POST /v1/reload` | `{"config_hash":"…"}` |
//! | `GET /health`, `/health/live`, `/health/ready` | 200 or 503 |
//! | `GET /health/details` | why |
//! | `GET /metrics` | see [`crate::metrics`] |
//!
//! An error is `{"error":"a sentence"}`. Limits: [`BODY_MAX`] for a request, [`server::CONNECTIONS_MAX`] connections on
//! each socket, [`follow::FOLLOWERS_MAX`] followers of the events.

mod change;
mod error;
pub mod follow;
mod health;
pub mod server;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Extension, Json, Router};
use common::config::Config;
use common::time::UnixTime;
use serde::Serialize;
use tokio::sync::{Semaphore, mpsc, oneshot};
use vrrpd_core::status::NodeStatus;

use crate::command::{CommandError, CommandSender, Published, ReloadOutcome, StatusCell};
use crate::events::EventLog;
use crate::hooks::Hooks;
use crate::lbd_link::LbdLinkCounters;
use crate::metrics;

pub use error::ApiError;

/// The largest request body, in bytes.
pub const BODY_MAX: usize = 64 * 1024;

/// Reloads asked for over the API that wait, at most; more are answered with 503.
pub const RELOADS_MAX: usize = 4;

/// A reload asked for: where the answer goes.
pub type ReloadRequest = oneshot::Sender<Result<ReloadOutcome, CommandError>>;

/// What the API works with.
#[derive(Debug)]
pub struct Api {
    /// This node's name.
    pub node: String,
    /// When the daemon started.
    pub started: (UnixTime, Instant),
    /// The loop's state.
    pub status: Arc<StatusCell>,
    /// The way to the loop.
    pub commands: CommandSender,
    /// The event log.
    pub log: Arc<EventLog>,
    /// The hooks, for their counters.
    pub hooks: Arc<Hooks>,
    /// The counters of the link to `lbd`.
    pub lbd: Arc<LbdLinkCounters>,
    /// What a reload changes.
    pub settings: ArcSwap<Settings>,
    /// Where reloads are asked for.
    pub reloads: mpsc::Sender<ReloadRequest>,
    /// A free place for each further follower.
    pub followers: Arc<Semaphore>,
    /// What happened on the API itself.
    pub counters: ApiCounters,
}

/// The part of the configuration that the API itself needs.
#[derive(Clone, Default)]
pub struct Settings {
    /// The bearer token that allows changes over TCP.
    pub token: Option<String>,
    /// The loop counts as hung when it has been silent for so long.
    pub silence_max: Duration,
}

impl std::fmt::Debug for Settings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let token = self.token.as_ref().map(|_| "…");
        f.debug_struct("Settings").field("token", &token).field("silence_max", &self.silence_max).finish()
    }
}

impl Settings {
    /// The settings of a configuration.
    #[must_use]
    pub fn new(config: &Config, token: Option<String>) -> Self {
        let slowest = config.vrrp.iter().map(|vrrp| vrrp.advert_interval).max().unwrap_or_default();
        Self { token, silence_max: (slowest * 5).max(Duration::from_secs(1)) }
    }
}

/// What happened on the API, since the start.
#[derive(Debug, Default)]
pub struct ApiCounters {
    /// Connections that found [`server::CONNECTIONS_MAX`] others, TCP.
    pub refused_tcp: AtomicU64,
    /// Connections that found [`server::CONNECTIONS_MAX`] others, Unix socket.
    pub refused_unix: AtomicU64,
    /// Followers that did not read for [`follow::STALL_MAX`] and were disconnected.
    pub followers_dropped: AtomicU64,
}

/// Which socket a request came over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The Unix socket: its mode says who may change things.
    Unix,
    /// TCP: changes need the token.
    Tcp,
}

/// The routes, for requests that come over one socket.
pub fn router(api: Arc<Api>, origin: Origin) -> Router {
    Router::new()
        .route("/v1/role", get(roles))
        .route("/v1/role/{instance}", get(role))
        .route("/v1/status", get(status))
        .route("/v1/events", get(follow::events))
        .route("/v1/switchover", post(change::switchover))
        .route("/v1/maintenance", post(change::maintenance))
        .route("/v1/reload", post(change::reload))
        .route("/health", get(health::ready))
        .route("/health/live", get(health::live))
        .route("/health/ready", get(health::ready))
        .route("/health/details", get(health::details))
        .route("/metrics", get(scrape))
        .fallback(async || ApiError::NotFound)
        .method_not_allowed_fallback(async || ApiError::Method)
        .layer(Extension(origin))
        .with_state(api)
}

impl Api {
    /// The latest state, once there is one.
    fn published(&self) -> Result<Arc<Published>, ApiError> {
        let latest = self.status.latest();
        if latest.number == 0 { Err(ApiError::Starting) } else { Ok(latest) }
    }
}

async fn roles(State(api): State<Arc<Api>>) -> Result<Response, ApiError> {
    let latest = api.published()?;
    let roles: BTreeMap<_, _> =
        latest.status.instances.iter().map(|instance| (instance.name.as_str(), instance.role)).collect();
    Ok(Json(roles).into_response())
}

async fn role(
    State(api): State<Arc<Api>>,
    instance: Result<Path<String>, PathRejection>,
) -> Result<Response, ApiError> {
    let Path(name) = instance.map_err(|error| ApiError::Request(error.body_text()))?;
    let latest = api.published()?;
    match latest.status.instances.iter().find(|instance| instance.name == name) {
        Some(instance) => Ok(Json(serde_json::json!({ "role": instance.role })).into_response()),
        None => {
            let known = latest.status.instances.iter().map(|instance| instance.name.clone()).collect();
            Err(CommandError::UnknownInstance { name, known }.into())
        }
    }
}

async fn status(State(api): State<Arc<Api>>) -> Result<Response, ApiError> {
    #[derive(Serialize)]
    struct Whole<'a> {
        version: &'static str,
        uptime_s: u64,
        started_unix_ms: u64,
        status_age_ms: u64,
        #[serde(flatten)]
        status: &'a NodeStatus,
    }
    let latest = api.published()?;
    let (started, since) = api.started;
    let whole = Whole {
        version: env!("CARGO_PKG_VERSION"),
        uptime_s: since.elapsed().as_secs(),
        started_unix_ms: started.as_millis(),
        status_age_ms: u64::try_from(latest.at.elapsed().as_millis()).unwrap_or(u64::MAX),
        status: &latest.status,
    };
    Ok(Json(whole).into_response())
}

async fn scrape(State(api): State<Arc<Api>>) -> Result<Response, ApiError> {
    let text = metrics::render(&api).map_err(|error| ApiError::Internal(error.to_string()))?;
    Ok(([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response())
}

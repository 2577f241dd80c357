//! The API's answers.

use std::sync::Arc;

use axum::Router;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::{get, patch, post};
use serde_json::json;
use tokio::sync::{mpsc, oneshot};

use super::{Token, flows, refresh, sticky, targets};
use crate::reload::{ReloadError, Request};
use crate::shared::Shared;
use crate::{metrics, summary, view};

/// The largest request body in bytes.
const BODY_BYTES_MAX: usize = 16 * 1024;

/// Who may change things.
#[derive(Clone, Debug)]
pub(super) enum Access {
    /// Everybody who got here: the Unix socket's permissions have decided.
    All,
    /// Who shows the token.
    Token(Token),
}

/// A refusal to change something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// There is none that could be shown.
    NoTokenConfigured,
    /// None was shown.
    TokenMissing,
    /// Another one was shown.
    TokenWrong,
}

impl Refusal {
    /// What is answered.
    pub(super) const fn sentence(self) -> &'static str {
        match self {
            Self::NoTokenConfigured => {
                "this address is read-only: make changes on the Unix socket lbd.sock in the run directory, or set token_file under [api]"
            }
            Self::TokenMissing => {
                "changes over TCP need the header `Authorization: Bearer` with the token of token_file"
            }
            Self::TokenWrong => "the bearer token is not the one in token_file",
        }
    }
}

impl Access {
    /// Whether who sent these headers may change things.
    pub(super) fn check(&self, headers: &HeaderMap) -> Result<(), Refusal> {
        let Self::Token(token) = self else { return Ok(()) };
        let token = token.load();
        let token = token.as_ref().ok_or(Refusal::NoTokenConfigured)?;
        let given = headers
            .get(header::AUTHORIZATION)
            .and_then(|value| value.to_str().ok())
            .and_then(|value| value.strip_prefix("Bearer "))
            .ok_or(Refusal::TokenMissing)?;
        if same(given.trim().as_bytes(), token.as_bytes()) { Ok(()) } else { Err(Refusal::TokenWrong) }
    }
}

/// Compares in a time that does not tell where the difference is.
fn same(given: &[u8], token: &[u8]) -> bool {
    let differences = given.iter().zip(token).fold(0, |seen, (a, b)| seen | (a ^ b));
    given.len() == token.len() && std::hint::black_box(differences) == 0
}

/// What answering takes.
#[derive(Clone)]
pub(super) struct Context {
    /// The daemon's state.
    pub(super) shared: Arc<Shared>,
    /// Where changes are asked for.
    pub(super) requests: mpsc::Sender<Request>,
    /// Who may ask for them here.
    pub(super) access: Access,
}

/// All of the API for one socket.
pub(super) fn router(shared: Arc<Shared>, requests: mpsc::Sender<Request>, access: Access) -> Router {
    Router::new()
        .route(
            "/v1/status",
            get(|State(context): State<Context>| async move { Json(view::status(&context.shared)) }),
        )
        .route(
            "/v1/services",
            get(|State(context): State<Context>| async move { Json(view::services(&context.shared)) }),
        )
        .route(
            "/v1/target-groups",
            get(|State(context): State<Context>| async move { Json(view::groups(&context.shared)) }),
        )
        .route("/v1/target-groups/{group}/targets", post(targets::add))
        .route("/v1/target-groups/{group}/targets/{target}", patch(targets::patch).delete(targets::delete))
        .route("/v1/target-groups/{group}/refresh", post(refresh::refresh))
        .route("/v1/sticky", get(sticky::show))
        .route("/v1/flows", get(flows::show))
        .route(
            "/v1/replication",
            get(|State(context): State<Context>| async move { Json(context.shared.peer.view()) }),
        )
        .route(
            "/v1/second-chance",
            get(|State(context): State<Context>| async move { Json(context.shared.chance.show()) }),
        )
        .route("/v1/reload", post(reload))
        .route("/health", get(ready))
        .route("/health/live", get(|| async { Json(json!({ "live": true })) }))
        .route("/health/ready", get(ready))
        .route("/health/details", get(details))
        .route("/metrics", get(show_metrics))
        .fallback(|| async { answer(StatusCode::NOT_FOUND, "there is nothing at this path") })
        .method_not_allowed_fallback(|| async {
            answer(StatusCode::METHOD_NOT_ALLOWED, "this path does not take this method")
        })
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .with_state(Context { shared, requests, access })
}

/// An answer that tells what went wrong.
pub(super) fn answer(status: StatusCode, error: &str) -> Response {
    (status, Json(json!({ "error": error }))).into_response()
}

async fn reload(State(context): State<Context>, headers: HeaderMap) -> Response {
    if let Err(refusal) = context.access.check(&headers) {
        return answer(StatusCode::FORBIDDEN, refusal.sentence());
    }
    let (reply, result) = oneshot::channel();
    if context.requests.try_send(Request::Reload(reply)).is_err() {
        return answer(StatusCode::SERVICE_UNAVAILABLE, "lbd is stopping, or busy with other reloads");
    }
    match result.await {
        Ok(Ok(report)) => Json(report).into_response(),
        Ok(Err(error)) => {
            let status = match error {
                ReloadError::Cancelled => StatusCode::SERVICE_UNAVAILABLE,
                ReloadError::Bind(_)
                | ReloadError::Api(_)
                | ReloadError::AccessLog(_)
                | ReloadError::Kernel(_) => StatusCode::CONFLICT,
                ReloadError::Config(_) | ReloadError::Node(_) | ReloadError::Check(_) => {
                    StatusCode::UNPROCESSABLE_ENTITY
                }
            };
            answer(status, &error.to_string())
        }
        Err(_) => answer(StatusCode::SERVICE_UNAVAILABLE, "lbd is stopping"),
    }
}

async fn ready(State(context): State<Context>) -> Response {
    match summary::ready(&context.shared) {
        Ok(()) => Json(json!({ "ready": true })).into_response(),
        Err(reason) => (StatusCode::SERVICE_UNAVAILABLE, Json(json!({ "ready": false, "reason": reason })))
            .into_response(),
    }
}

async fn details(State(context): State<Context>) -> Response {
    let shared = &context.shared;
    let ready = summary::ready(shared);
    let status = if ready.is_ok() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let health = shared.health.borrow().clone();
    let body = json!({
        "live": true,
        "ready": ready.is_ok(),
        "reason": ready.err(),
        "workers_alive": health.workers_alive,
        "workers_expected": health.workers_expected,
        "services_without_targets": health.services_without_targets,
        "vrrpd_connected": shared.vrrpd.borrow().connected,
        "replication": shared.peer.view().state,
        "target_groups": view::groups(shared),
    });
    (status, Json(body)).into_response()
}

async fn show_metrics(State(context): State<Context>) -> Response {
    match metrics::encode(&context.shared) {
        Ok(text) => ([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response(),
        Err(error) => answer(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bearer(value: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(header::AUTHORIZATION, value.parse().unwrap());
        headers
    }

    #[test]
    fn only_the_token_opens_tcp() {
        let token = Token::default();
        let access = Access::Token(Arc::clone(&token));
        assert_eq!(access.check(&bearer("Bearer secret")), Err(Refusal::NoTokenConfigured));
        token.store(Some(Arc::new("secret".to_owned())));
        assert_eq!(access.check(&bearer("Bearer secret")), Ok(()));
        assert_eq!(access.check(&bearer("Bearer secre")), Err(Refusal::TokenWrong));
        assert_eq!(access.check(&bearer("Bearer secret2")), Err(Refusal::TokenWrong));
        assert_eq!(access.check(&bearer("Basic secret")), Err(Refusal::TokenMissing));
        assert_eq!(access.check(&HeaderMap::new()), Err(Refusal::TokenMissing));
        assert_eq!(Access::All.check(&HeaderMap::new()), Ok(()));
    }
}

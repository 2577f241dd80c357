//! Errors of the API: a status and a sentence.

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};

use crate::command::CommandError;

use super::BODY_MAX;

/// Why a request was not answered as asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ApiError {
    /// No such path.
    #[error("there is nothing at this path")]
    NotFound,
    /// No such method.
    #[error("this path does not know that method")]
    Method,
    /// The request makes no sense.
    #[error("{0}")]
    Request(String),
    /// The body is larger than [`BODY_MAX`].
    #[error("the request's body is larger than {BODY_MAX} bytes")]
    TooLarge,
    /// The body did not come in time.
    #[error("the request's body did not come within 5 s")]
    SlowBody,
    /// A change over TCP without the token.
    #[error(
        "changes are accepted on the Unix socket in the run directory, or over TCP with the bearer token of [api] token_file"
    )]
    Forbidden,
    /// The loop has not published anything yet.
    #[error("vrrpd is starting")]
    Starting,
    /// All places are taken.
    #[error("{0} followers of the events are connected already, no more are accepted")]
    TooManyFollowers(usize),
    /// The loop's answer.
    #[error(transparent)]
    Command(#[from] CommandError),
    /// Should not happen.
    #[error("internal error: {0}")]
    Internal(String),
}

impl ApiError {
    const fn status(&self) -> StatusCode {
        match self {
            Self::NotFound | Self::Command(CommandError::UnknownInstance { .. }) => StatusCode::NOT_FOUND,
            Self::Method => StatusCode::METHOD_NOT_ALLOWED,
            Self::Request(_) => StatusCode::BAD_REQUEST,
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::SlowBody => StatusCode::REQUEST_TIMEOUT,
            Self::Forbidden => StatusCode::FORBIDDEN,
            Self::Starting
            | Self::TooManyFollowers(_)
            | Self::Command(CommandError::Busy | CommandError::Stopping) => StatusCode::SERVICE_UNAVAILABLE,
            Self::Command(CommandError::TimedOut(_)) => StatusCode::GATEWAY_TIMEOUT,
            Self::Command(_) => StatusCode::CONFLICT,
            Self::Internal(_) => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        (self.status(), Json(serde_json::json!({ "error": self.to_string() }))).into_response()
    }
}

//! Requests that change something.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::body::{Body, to_bytes};
use axum::extract::{FromRequestParts, State};
use axum::http::header::AUTHORIZATION;
use axum::http::request::Parts;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::{Api, ApiError, BODY_MAX, Origin};
use crate::command::{Command, CommandError, Reply};

/// The longest wait for what a command came to.
const ANSWER_MAX: Duration = Duration::from_secs(5);

/// The longest wait for the rest of a request.
const BODY_TIME_MAX: Duration = Duration::from_secs(5);

/// Proof that the request may change things; asked for before the body is read.
#[derive(Debug)]
pub(super) struct Allowed;

impl FromRequestParts<Arc<Api>> for Allowed {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, api: &Arc<Api>) -> Result<Self, ApiError> {
        if parts.extensions.get::<Origin>() == Some(&Origin::Unix) {
            return Ok(Self);
        }
        let settings = api.settings.load();
        let given =
            parts.headers.get(AUTHORIZATION).and_then(|value| value.as_bytes().strip_prefix(b"Bearer "));
        match (given, &settings.token) {
            (Some(given), Some(token)) if equal_in_constant_time(given, token.as_bytes()) => Ok(Self),
            _ => Err(ApiError::Forbidden),
        }
    }
}

/// Compares without telling by the time taken how much of a guess was right; the length is no secret.
fn equal_in_constant_time(a: &[u8], b: &[u8]) -> bool {
    let different = a.iter().zip(b).fold(0, |different, (a, b)| black_box(different | (a ^ b)));
    a.len() == b.len() && different == 0
}

pub(super) async fn switchover(
    _: Allowed,
    State(api): State<Arc<Api>>,
    body: Body,
) -> Result<Json<Value>, ApiError> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Request {
        instance: String,
    }
    let Request { instance } = parse(body, r#"{"instance":"NAME"}"#).await?;
    let outcome = ask(&api, |reply| Command::Switchover { instance: instance.clone(), reply }).await?;
    // Anything but a handover that failed has an outcome within seconds.
    let took_ms = u64::try_from(outcome.took.as_millis()).unwrap_or(u64::MAX);
    Ok(Json(json!({ "instance": instance, "active": outcome.active, "took_ms": took_ms })))
}

pub(super) async fn maintenance(
    _: Allowed,
    State(api): State<Arc<Api>>,
    body: Body,
) -> Result<Json<Value>, ApiError> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Request {
        on: bool,
    }
    let Request { on } = parse(body, r#"{"on":true}"#).await?;
    let outcome = ask(&api, |reply| Command::Maintenance { on, reply }).await?;
    Ok(Json(json!({ "on": outcome.on })))
}

pub(super) async fn reload(_: Allowed, State(api): State<Arc<Api>>) -> Result<Json<Value>, ApiError> {
    let (reply, answer) = oneshot::channel();
    api.reloads.try_send(reply).map_err(|_| CommandError::Busy)?;
    let outcome = wait(answer).await?;
    Ok(Json(json!({ "config_hash": format!("{:016x}", outcome.config_hash) })))
}

/// Sends a command to the loop and waits for its answer.
async fn ask<T>(api: &Api, command: impl FnOnce(Reply<T>) -> Command) -> Result<T, CommandError> {
    let (reply, answer) = oneshot::channel();
    api.commands.send(command(reply))?;
    wait(answer).await
}

async fn wait<T>(answer: oneshot::Receiver<Result<T, CommandError>>) -> Result<T, CommandError> {
    match timeout(ANSWER_MAX, answer).await {
        Ok(Ok(result)) => result,
        Ok(Err(_)) => Err(CommandError::Stopping),
        Err(_) => Err(CommandError::TimedOut(ANSWER_MAX)),
    }
}

async fn parse<T: DeserializeOwned>(body: Body, form: &str) -> Result<T, ApiError> {
    let bytes = timeout(BODY_TIME_MAX, to_bytes(body, BODY_MAX)).await.map_err(|_| ApiError::SlowBody)?;
    let bytes = bytes.map_err(|error| {
        let source = std::error::Error::source(&error);
        if source.is_some_and(|source| source.is::<http_body_util::LengthLimitError>()) {
            ApiError::TooLarge
        } else {
            ApiError::Request(format!("the request's body cannot be read: {error}"))
        }
    })?;
    serde_json::from_slice(&bytes)
        .map_err(|error| ApiError::Request(format!("the request's body must be {form}: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_equal_or_not() {
        assert!(equal_in_constant_time(b"secret", b"secret"));
        assert!(!equal_in_constant_time(b"secret", b"secres"));
        assert!(!equal_in_constant_time(b"secre", b"secret"));
        assert!(!equal_in_constant_time(b"", b"secret"));
    }
}

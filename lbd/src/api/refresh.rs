//! `POST /v1/target-groups/GROUP/refresh`: ask the source of a group's targets now.

use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Json, Response};
use lbd_core::discover::FailureKind;

use super::handlers::{Context, answer};
use crate::discover::RefreshError;

/// Answers the group's discovery when what the source said is in use.
pub(super) async fn refresh(
    State(context): State<Context>,
    Path(group): Path<String>,
    headers: HeaderMap,
) -> Response {
    if let Err(refusal) = context.access.check(&headers) {
        return answer(StatusCode::FORBIDDEN, refusal.sentence());
    }
    let shared = &context.shared;
    if let Err(error) = shared.discovery.refresh(&group).await {
        let status = match &error {
            RefreshError::Unknown(_) | RefreshError::Ended(_) => StatusCode::NOT_FOUND,
            RefreshError::Busy(_) => StatusCode::SERVICE_UNAVAILABLE,
            RefreshError::Failed(failure) if failure.kind == FailureKind::Unreachable => {
                StatusCode::BAD_GATEWAY
            }
            RefreshError::Failed(_) => StatusCode::UNPROCESSABLE_ENTITY,
        };
        return answer(status, &error.to_string());
    }
    let config = shared.snapshot.load().config.clone();
    let written = config.target_group(&group).map(|group| group.targets.as_slice()).unwrap_or_default();
    Json(shared.discovery.view(&group, written)).into_response()
}

//! `GET /v1/flows`: the flows that the kernel forwards.

use std::net::IpAddr;

use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Json, Response};
use common::config::Protocol;
use lbd_core::forward::flows::{Filter, FlowState};
use serde::Deserialize;

use super::handlers::{Context, answer};
use crate::l4::kernel::{ListError, Listing};

/// What may be asked for.
#[derive(Debug, Deserialize)]
pub(super) struct Wanted {
    service: Option<String>,
    target: Option<String>,
    client: Option<IpAddr>,
    vip: Option<IpAddr>,
    protocol: Option<Protocol>,
    state: Option<FlowState>,
    max: Option<usize>,
}

/// Lists flows on another thread: it may have to read a million.
pub(super) async fn show(State(context): State<Context>, Query(wanted): Query<Wanted>) -> Response {
    let Some(reader) = context.shared.kernel.reader() else {
        return Json(Listing::default()).into_response();
    };
    let Wanted { service, target, client, vip, protocol, state, max } = wanted;
    let filter = Filter { service, target, client, vip, protocol, state };
    match tokio::task::spawn_blocking(move || reader.list(&filter, max)).await {
        Ok(Ok(listing)) => Json(listing).into_response(),
        Ok(Err(error @ ListError::Busy)) => answer(StatusCode::SERVICE_UNAVAILABLE, &error.to_string()),
        Ok(Err(error)) => answer(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
        Err(_) => answer(StatusCode::SERVICE_UNAVAILABLE, "lbd is stopping"),
    }
}

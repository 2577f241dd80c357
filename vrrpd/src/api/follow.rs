//! `GET /v1/events`: a page of the log, or the log as a stream of server-sent events.
//!
//! A follower has no buffer of its own: it reads the ring from where it is, at most [`BATCH_MAX`] events at a time.
//! What was overwritten before it came to it is told as an event `dropped`. One that takes nothing for [`STALL_MAX`] is
//! disconnected.

use std::fmt::Write;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::header::{ACCEPT, CACHE_CONTROL, CONTENT_TYPE};
use axum::http::{HeaderMap, HeaderValue};
use axum::response::{IntoResponse, Response};
use hyper::body::Frame;
use serde::Deserialize;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::time::timeout;

use super::{Api, ApiError};
use crate::events::{Entry, PAGE_MAX, Page};

/// Followers at the same time; more are answered with 503.
pub const FOLLOWERS_MAX: usize = 32;

/// A follower that reads nothing for so long is disconnected.
pub const STALL_MAX: Duration = Duration::from_secs(10);

/// Events in one write.
const BATCH_MAX: usize = 64;

/// A comment is sent when there has been nothing else for so long, so that a dead follower is noticed.
const ALIVE_EVERY: Duration = Duration::from_secs(15);

/// The parameters of `GET /v1/events`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Parameters {
    after: Option<u64>,
}

pub(super) async fn events(
    State(api): State<Arc<Api>>,
    headers: HeaderMap,
    parameters: Result<Query<Parameters>, QueryRejection>,
) -> Result<Response, ApiError> {
    let Query(parameters) = parameters.map_err(|error| ApiError::Request(error.body_text()))?;
    let accept = headers.get(ACCEPT).and_then(|value| value.to_str().ok());
    if !accept.is_some_and(|accept| accept.contains("text/event-stream")) {
        return Ok(Json(api.log.after(parameters.after.unwrap_or(0), PAGE_MAX)).into_response());
    }
    // A browser that reconnects repeats its first address, so the number it has seen goes first.
    let seen = headers.get("last-event-id").and_then(|value| value.to_str().ok()?.parse().ok());
    let after = seen.or(parameters.after).unwrap_or(0);
    let permit = Arc::clone(&api.followers)
        .try_acquire_owned()
        .map_err(|_| ApiError::TooManyFollowers(FOLLOWERS_MAX))?;
    let (sender, receiver) = mpsc::channel(1);
    tokio::spawn(follow(api, after, sender, permit));
    let headers = [
        (CONTENT_TYPE, HeaderValue::from_static("text/event-stream")),
        (CACHE_CONTROL, HeaderValue::from_static("no-store")),
    ];
    Ok((headers, Body::new(Stream(receiver))).into_response())
}

/// Feeds one follower until it is gone.
async fn follow(api: Arc<Api>, mut after: u64, sender: mpsc::Sender<Bytes>, _permit: OwnedSemaphorePermit) {
    let mut newest = api.log.watch();
    let mut text = "retry: 1000\n\n".to_owned();
    loop {
        newest.mark_unchanged();
        let page = api.log.after(after, BATCH_MAX);
        after = page.next;
        append(&mut text, &page);
        if !text.is_empty() {
            match timeout(STALL_MAX, sender.send(std::mem::take(&mut text).into())).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return,
                Err(_) => {
                    api.counters.followers_dropped.fetch_add(1, Ordering::Relaxed);
                    tracing::info!(
                        "a follower of the events was disconnected, it read nothing for {STALL_MAX:?}"
                    );
                    return;
                }
            }
        }
        if page.events.len() == BATCH_MAX {
            continue;
        }
        tokio::select! {
            () = sender.closed() => return,
            changed = newest.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(ALIVE_EVERY) => text.push_str(": alive\n\n"),
        }
    }
}

/// The events in the form of the stream.
fn append(text: &mut String, page: &Page) {
    if page.dropped > 0 {
        text.push_str("event: dropped\n");
        // Writing to a string cannot fail.
        write!(text, "data: {{\"dropped\":{}}}\n\n", page.dropped).ok();
    }
    for entry in &page.events {
        let (name, data) = parts(entry);
        write!(text, "id: {}\nevent: {name}\ndata: {data}\n\n", entry.id).ok();
    }
}

fn parts(entry: &Entry) -> (String, String) {
    let value = serde_json::to_value(entry).unwrap_or_default();
    let name = value.get("event").and_then(|name| name.as_str()).unwrap_or("event").to_owned();
    // JSON on one line: it escapes line ends in strings.
    (name, value.to_string())
}

/// The response's body: what the feeding task sends.
struct Stream(mpsc::Receiver<Bytes>);

impl hyper::body::Body for Stream {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        self.0.poll_recv(cx).map(|bytes| bytes.map(|bytes| Ok(Frame::data(bytes))))
    }
}

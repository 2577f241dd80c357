//! Whether the daemon lives and can serve.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use common::ipc::Role;
use serde_json::{Value, json};

use super::Api;

struct Health {
    live: bool,
    ready: bool,
    details: Value,
}

/// Alive: the loop has published its state lately. Ready: alive, and every instance is active or stands by.
fn examine(api: &Api) -> Health {
    let latest = api.status.latest();
    let age = latest.at.elapsed();
    let silence_max = api.settings.load().silence_max;
    let status = &latest.status;
    let live = age <= silence_max;
    let serves = |role| matches!(role, Role::Active | Role::Backup);
    let instances_ready = status.instances.iter().all(|instance| serves(instance.role));
    let ready = live && latest.number > 0 && instances_ready;
    let instances: Vec<_> = status
        .instances
        .iter()
        .map(|instance| json!({ "name": instance.name, "role": instance.role, "ready": serves(instance.role) }))
        .collect();
    let details = json!({
        "live": live,
        "ready": ready,
        "loop": {
            "age_ms": u64::try_from(age.as_millis()).unwrap_or(u64::MAX),
            "age_max_ms": u64::try_from(silence_max.as_millis()).unwrap_or(u64::MAX),
            "system_errors": api.status.counters.system_errors.load(Ordering::Relaxed),
        },
        "instances": instances,
        "peer_link": status.peer_link,
        "lbd": { "health": status.lbd, "connected": api.lbd.connected.load(Ordering::Relaxed), "behind": status.behind },
        "maintenance": status.maintenance,
        "hooks": api.hooks.counts(),
        "warden_restarts": api.status.counters.warden_restarts.load(Ordering::Relaxed),
        "events_dropped": api.log.lost(),
    });
    Health { live, ready, details }
}

fn answer(good: bool, word: &str) -> (StatusCode, Json<Value>) {
    let status = if good { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(json!({ "status": if good { word } else { "unavailable" } })))
}

pub(super) async fn live(State(api): State<Arc<Api>>) -> (StatusCode, Json<Value>) {
    answer(examine(&api).live, "live")
}

pub(super) async fn ready(State(api): State<Arc<Api>>) -> (StatusCode, Json<Value>) {
    answer(examine(&api).ready, "ready")
}

pub(super) async fn details(State(api): State<Arc<Api>>) -> (StatusCode, Json<Value>) {
    let health = examine(&api);
    let status = if health.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(health.details))
}

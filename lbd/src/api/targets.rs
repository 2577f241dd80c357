//! Changing targets: `PATCH`, `POST` and `DELETE` below `/v1/target-groups/GROUP/targets`.

use std::fmt::Write as _;
use std::path::Path as FilePath;

use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Json, Response};
use common::config::{self, parse_targets};
use lbd_core::group::{Admin, RosterError, WEIGHT_MAX};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value, json};
use tokio::sync::oneshot;

use super::handlers::{Context, answer};
use crate::change::{Asked, Change, ChangeError};
use crate::reload::Request;
use crate::view;

/// The body of `PATCH`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Patch {
    state: Option<Admin>,
    /// Inside none: null, the configured weight.
    #[serde(default, deserialize_with = "given")]
    weight: Option<Option<u16>>,
}

/// Tells a value of null from a missing one.
fn given<'a, D: Deserializer<'a>>(value: D) -> Result<Option<Option<u16>>, D::Error> {
    Option::deserialize(value).map(Some)
}

/// `PATCH …/targets/TARGET`
pub(super) async fn patch(
    State(context): State<Context>,
    Path((group, target)): Path<(String, String)>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    if let Err(refusal) = context.access.check(&headers) {
        return answer(StatusCode::FORBIDDEN, refusal.sentence());
    }
    let change = match change(&body) {
        Ok(change) => change,
        Err(error) => return answer(StatusCode::UNPROCESSABLE_ENTITY, &error),
    };
    let asked = Asked::Set { group: group.clone(), target: target.clone(), change };
    match perform(&context, asked).await {
        Ok(()) => Json(view::target(&context.shared, &group, &target)).into_response(),
        Err(response) => response,
    }
}

/// `POST …/targets`
pub(super) async fn add(
    State(context): State<Context>,
    Path(group): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    if let Err(refusal) = context.access.check(&headers) {
        return answer(StatusCode::FORBIDDEN, refusal.sentence());
    }
    let target = match new_target(&body) {
        Ok(target) => target,
        Err(error) => return answer(StatusCode::UNPROCESSABLE_ENTITY, &error),
    };
    let id = target.id.clone();
    match perform(&context, Asked::Add { group: group.clone(), target }).await {
        Ok(()) => (StatusCode::CREATED, Json(view::target(&context.shared, &group, &id))).into_response(),
        Err(response) => response,
    }
}

/// `DELETE …/targets/TARGET`
pub(super) async fn delete(
    State(context): State<Context>,
    Path((group, target)): Path<(String, String)>,
    headers: HeaderMap,
) -> Response {
    if let Err(refusal) = context.access.check(&headers) {
        return answer(StatusCode::FORBIDDEN, refusal.sentence());
    }
    match perform(&context, Asked::Delete { group, target }).await {
        Ok(()) => Json(json!({ "deleted": true })).into_response(),
        Err(response) => response,
    }
}

async fn perform(context: &Context, asked: Asked) -> Result<(), Response> {
    let (reply, result) = oneshot::channel();
    let stopping = |_| answer(StatusCode::SERVICE_UNAVAILABLE, "lbd is stopping");
    let busy = "lbd is stopping, or busy with other changes";
    let at = context.shared.clock.now().unix.as_micros();
    let sent = context.requests.try_send(Request::Change(asked, at, reply));
    sent.map_err(|_| answer(StatusCode::SERVICE_UNAVAILABLE, busy))?;
    result.await.map_err(stopping)?.map_err(|error| {
        let status = match &error {
            ChangeError::NoGroup { .. }
            | ChangeError::NoTarget { .. }
            | ChangeError::Roster(RosterError::Unknown { .. }) => StatusCode::NOT_FOUND,
            ChangeError::Roster(_) => StatusCode::CONFLICT,
        };
        answer(status, &error.to_string())
    })
}

/// What the body of `PATCH` asks for.
fn change(body: &[u8]) -> Result<Change, String> {
    const FORM: &str = "the body must be JSON such as {\"state\":\"drain\",\"weight\":5}";
    let patch: Patch = serde_json::from_slice(body).map_err(|error| format!("{FORM}: {error}"))?;
    if let Some(Some(weight)) = patch.weight
        && weight > WEIGHT_MAX
    {
        return Err(format!("weight: {weight} is not a number from 0 to {WEIGHT_MAX}"));
    }
    if patch.state.is_none() && patch.weight.is_none() {
        return Err(format!("{FORM}: it has neither state nor weight"));
    }
    Ok(Change { state: patch.state, weight: patch.weight })
}

/// The target that the body of `POST` describes. It is written as in the file and read by the same rules.
fn new_target(body: &[u8]) -> Result<config::Target, String> {
    const FORM: &str = "the body must be a JSON object such as {\"id\":\"s3\",\"address\":\"192.0.2.3:80\"}";
    let fields: Map<String, Value> =
        serde_json::from_slice(body).map_err(|error| format!("{FORM}: {error}"))?;
    let mut text = "targets = [{".to_owned();
    let mut separator = "";
    for (key, value) in fields.iter().filter(|(_, value)| !value.is_null()) {
        if value.is_object() {
            return Err(format!("{FORM}: {key} must not be an object"));
        }
        // Strings, numbers, booleans and lists are written the same in JSON and TOML. Writing to a string cannot fail.
        write!(text, "{separator}{} = {value}", Value::from(key.as_str()))
            .map_err(|error| error.to_string())?;
        separator = ", ";
    }
    text.push_str("}]\n");
    let targets = parse_targets(&text, FilePath::new("request")).map_err(|errors| {
        let sentence = |error: &config::Diagnostic| match error.hint() {
            None => error.message(),
            Some(hint) => format!("{} (did you mean `{hint}`?)", error.message()),
        };
        errors.iter().map(sentence).collect::<Vec<_>>().join("; ")
    })?;
    targets.into_iter().next().ok_or_else(|| FORM.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_patch_says_what_it_changes() {
        let ok = |body: &str| change(body.as_bytes()).unwrap();
        let both = Change { state: Some(Admin::Drain), weight: Some(Some(5)) };
        assert_eq!(ok(r#"{"state":"drain","weight":5}"#), both);
        assert_eq!(ok(r#"{"weight":null}"#), Change { state: None, weight: Some(None) });
        assert_eq!(ok(r#"{"state":"maint"}"#), Change { state: Some(Admin::Maint), weight: None });
        for bad in
            ["", "{}", "[]", r#"{"state":"off"}"#, r#"{"weight":257}"#, r#"{"weight":-1}"#, r#"{"wieght":1}"#]
        {
            assert!(change(bad.as_bytes()).is_err(), "{bad}");
        }
        let error = change(br#"{"state":"off"}"#).unwrap_err();
        assert!(error.contains("`ready`, `drain`, `maint`"), "{error}");
    }

    #[test]
    fn a_new_target_follows_the_files_rules() {
        let target = new_target(
            br#"{"id":"s3","address":"192.0.2.3:80","weight":7,"backup":true,"zone":null,"max_connections":9}"#,
        )
        .unwrap();
        assert_eq!((target.id.as_str(), target.weight, target.backup), ("s3", 7, true));
        assert_eq!((target.zone, target.max_connections), (None, Some(9)));
        assert_eq!(new_target(br#"{"address":"[2001:db8::1]:80"}"#).unwrap().id, "[2001:db8::1]:80");
        for bad in [
            "",
            "{}",
            "[1]",
            r#"{"address":"192.0.2.3"}"#,
            r#"{"address":"192.0.2.3:80","weight":257}"#,
            r#"{"address":"192.0.2.3:80","id":"a/b"}"#,
            r#"{"address":"192.0.2.3:80","id":"a\" , x = \"b"}"#,
            r#"{"address":"192.0.2.3:80","weigth":1}"#,
            r#"{"address":{"a":1}}"#,
            r#"{"address":["192.0.2.3:80"]}"#,
        ] {
            assert!(new_target(bad.as_bytes()).is_err(), "{bad}");
        }
        let error = new_target(br#"{"address":"192.0.2.3:80","weigth":1}"#).unwrap_err();
        assert!(error.contains("weigth") && error.contains("did you mean `weight`"), "{error}");
    }
}

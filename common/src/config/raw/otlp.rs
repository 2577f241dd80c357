//! `otlp` of a service of `mode = "http"`, as written.

use super::reader::{At, Cursor};
use super::text;
use super::value::{is_path, is_server};
use crate::config::diag::{Problems, quoted};
use crate::config::problem::Problem;
use crate::config::types::{HttpEndpoint, SampleShare};

/// `otlp`.
pub(crate) struct RawOtlp {
    pub(crate) endpoint: HttpEndpoint,
    pub(crate) sample: Option<SampleShare>,
    pub(crate) service_name: Option<String>,
}

/// Where collectors take traces unless they are told otherwise.
const PATH: &str = "/v1/traces";

pub(super) fn read(cursor: &Cursor<'_>, out: &mut Problems) -> Option<RawOtlp> {
    let mut table = cursor.table(out)?;
    let endpoint = table.required("endpoint", out).and_then(|c| endpoint(&c, out));
    let sample = table.get("sample").and_then(|c| c.share(out));
    let service_name = table.get("service_name").and_then(|c| text(&c, out)).map(At::into_inner);
    table.finish(out);
    Some(RawOtlp { endpoint: endpoint?, sample, service_name })
}

fn endpoint(cursor: &Cursor<'_>, out: &mut Problems) -> Option<HttpEndpoint> {
    let text = cursor.string(out)?.into_inner();
    let of = |scheme: &str| {
        let rest = text.strip_prefix(scheme)?;
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let path = if path.is_empty() || path == "/" { PATH } else { path };
        let fits = is_server(authority) && is_path(path) && !path.contains('#');
        fits.then(|| HttpEndpoint { authority: authority.to_owned(), path: path.to_owned() })
    };
    if of("https://").is_some() {
        cursor.not_available(Some(&text), out);
        return None;
    }
    let endpoint = of("http://");
    if endpoint.is_none() {
        out.add(cursor.span(), Problem::BadEndpoint { key: cursor.key(), value: quoted(&text) });
    }
    endpoint
}

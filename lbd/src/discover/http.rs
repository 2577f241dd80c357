//! Targets from Consul and etcd: one request each time.

use hyper::body::Bytes;
use hyper::{Method, StatusCode};
use lbd_core::discover::{Failure, consul, etcd};

use super::{Asking, Source};
use crate::ask::{Unanswered, ask};

/// Of an answer that is an error, so much is shown.
const SHOWN_CHARS_MAX: usize = 200;

/// Consul's health API.
pub(super) struct Consul {
    url: String,
    service: String,
    path: String,
    max_targets: u32,
}

impl Consul {
    pub(super) fn new(url: String, service: String, tag: Option<&str>, max_targets: u32) -> Self {
        let path = consul::path(&service, tag);
        Self { url, service, path, max_targets }
    }
}

impl Source for Consul {
    fn ask(&mut self) -> Asking<'_> {
        Box::pin(async {
            let body = exchange("Consul", &self.url, Method::GET, &self.path, String::new()).await?;
            consul::parse(&body, &self.service, self.max_targets)
        })
    }
}

/// etcd's JSON gateway.
pub(super) struct Etcd {
    url: String,
    prefix: String,
    max_targets: u32,
}

impl Etcd {
    pub(super) fn new(url: String, prefix: String, max_targets: u32) -> Self {
        Self { url, prefix, max_targets }
    }
}

impl Source for Etcd {
    fn ask(&mut self) -> Asking<'_> {
        Box::pin(async {
            let question = etcd::request(&self.prefix, self.max_targets);
            let body = exchange("etcd", &self.url, Method::POST, etcd::PATH, question).await?;
            etcd::parse(&body, &self.prefix, self.max_targets)
        })
    }
}

/// Sends one request, and answers the body of the 200 that comes back.
async fn exchange(who: &str, url: &str, method: Method, path: &str, body: String) -> Result<Bytes, Failure> {
    // The configuration takes nothing else.
    let authority = url.strip_prefix("http://").unwrap_or(url);
    let failure = match ask(authority, method, path, body.into()).await {
        Ok((StatusCode::OK, body)) => return Ok(body),
        Ok((status, body)) => {
            let text = String::from_utf8_lossy(&body);
            let shown: String =
                text.trim().chars().take(SHOWN_CHARS_MAX).flat_map(char::escape_debug).collect();
            Failure::unreachable(format!("answered {status}: {shown}"))
        }
        Err(error @ (Unanswered::TooLarge | Unanswered::NoRequest { .. })) => {
            Failure::invalid(error.to_string())
        }
        Err(error) => Failure::unreachable(error.to_string()),
    };
    let message = format!("{who} at {url}: {}", failure.message);
    Err(Failure { message, ..failure })
}

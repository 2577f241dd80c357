//! TLS of services and towards targets: with openssl, curl and nginx at the other ends, and with ends that do as they are told.

mod certificates;
mod check;
mod clients;
mod hostile;
pub(crate) mod peers;
mod real;
mod reload;
mod resume;
mod scanned;
mod stapled;
mod streams;
mod targets;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;

use crate::real::Authority;
use crate::support::{Config, Lbd, metric};

/// A service with TLS: `certificates` are bundles.
pub(crate) fn config(ip: Ipv4Addr, targets: &[SocketAddr], certificates: &[&Path]) -> Config {
    let mut config = super::config(ip, targets);
    config.service = format!("tls = {{ certificates = [{}] }}", listed(certificates));
    config
}

fn listed(certificates: &[&Path]) -> String {
    certificates.iter().map(|path| format!("\"{}\"", path.display())).collect::<Vec<_>>().join(", ")
}

/// An authority that has signed `shop` for shop.example and *.shop.example.
pub(crate) fn shop() -> Authority {
    let authority = Authority::new();
    authority.sign("shop", "DNS:shop.example,DNS:*.shop.example", 2);
    authority
}

/// Handshakes that came to nothing for this reason.
pub(crate) fn failed(lbd: &Lbd, reason: &str) -> u64 {
    let label = format!("{{service=\"web\",reason=\"{reason}\"}}");
    metric(lbd, "tandem_lbd_service_tls_handshakes_failed_total")[&label]
}

/// Handshakes of this version and kind.
fn made(lbd: &Lbd, version: &str, kind: &str) -> u64 {
    let label = format!("{{service=\"web\",version=\"{version}\",kind=\"{kind}\"}}");
    metric(lbd, "tandem_lbd_service_tls_handshakes_total")[&label]
}

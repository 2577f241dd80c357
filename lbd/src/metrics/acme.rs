//! The metrics of certificates that are ordered.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

use lbd_core::acme::FailureKind;

use super::Out;
use crate::acme::Acme;
use crate::tls::TlsSet;

pub(super) fn encode(out: &mut Out<'_>, acme: &Acme, tls: &TlsSet) -> fmt::Result {
    let slots: Vec<_> = tls.ordered().collect();
    if slots.is_empty() {
        return Ok(());
    }
    let (counts, get) = (acme.counts(), |count: &AtomicU64| count.load(Ordering::Relaxed));
    let here = slots.iter().filter(|slot| slot.validity().is_some()).count();
    let states = [("here", here), ("missing", slots.len() - here)];
    out.gauges(
        "acme_certificates",
        "Certificates that are ordered",
        states.map(|(state, count)| (vec![("state", state)], count as f64)),
    )?;
    out.counter("acme_orders", "Orders of certificates that were placed", get(&counts.placed))?;
    out.counter("acme_certificates_issued", "Certificates that orders have brought", get(&counts.issued))?;
    out.counters(
        "acme_failures",
        "Attempts to get a certificate that came to nothing",
        FailureKind::ALL.map(|kind| (vec![("reason", kind.name())], get(&counts.failures[kind.index()]))),
    )?;
    out.counter("acme_challenges_answered", "Questions of the authority", get(&counts.answered))?;
    let told = [("taken", get(&counts.received)), ("refused", get(&counts.refused))];
    out.counters(
        "acme_certificates_received",
        "Certificates that the other node has told of",
        told.map(|(result, count)| (vec![("result", result)], count)),
    )
}

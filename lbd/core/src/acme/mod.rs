//! Certificates that are ordered from an authority (ACME, RFC 8555): which are missing, which of the nodes orders, when, how often at most;
//! what it is asked meanwhile, and what the nodes tell each other.
//!
//! ```text
//! configuration ── Names ──► Agenda ── order this one ──► shell: account, order, challenges, certificate
//!                              ▲                             │
//!                              └──── how it ended ◄──────────┘
//! ```
//!
//! # Decisions
//!
//! *A certificate is for a set of names*, not for a service: two services with the same names share one. That of another directory is another one.
//!
//! *One node orders*: the one that has the virtual IP, because that is where the authority asks ([`may_order`]). The other one gets
//! certificate and key from it, and what is to be answered while an order is under way, so that a virtual IP may move meanwhile.
//!
//! *Authorities count.* An order is placed at most [`ORDERS_MAX`] times in an hour, and [`ORDERS_OF_ONE_MAX`] times for one certificate,
//! whatever happens; after a failure there is a pause that doubles. No certificate is renewed before half of its life is over.
//!
//! *A certificate that is there is never given up* before a later one is: whatever fails, clients get what there is.

mod agenda;
mod challenge;
mod names;
mod standing;
mod told;

pub use agenda::{
    Agenda, FailureKind, LastFailure, ORDERS_MAX, ORDERS_OF_ONE_MAX, ORDERS_WITHIN, Progress, Validity, View,
    readable,
};
pub use challenge::{
    ANSWER_BYTES_MAX, CHALLENGES_MAX, Challenge, Challenges, OTHERS_FOR, PATH, TOKEN_BYTES_MAX,
};
pub use names::Names;
pub use standing::{SETTLE, Situation, may_order};
pub use told::{BUNDLE_MAX, Issued, Told, Untellable};

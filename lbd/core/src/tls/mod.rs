//! What TLS decides without IO and without keys: what a certificate says, which one a client gets, which cipher it would rather have, how long
//! tickets live.

mod certificate;
mod choice;
mod der;
mod favourite;
mod name;
mod ocsp;
mod ticket;

pub(crate) use certificate::bit_length;
pub use certificate::{Certificate, Malformed, PublicKey};
pub use choice::{Choice, KeyKind, Twice};
pub use favourite::prefers_chacha20;
pub use ocsp::Response;
pub use ticket::{EPOCH, TICKET_BYTES_MAX, accepted, epoch};

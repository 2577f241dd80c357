//! Layer 7: HTTP requests from clients to targets.
//!
//! One task for each client's connection of HTTP/1 reads request after request, has `lbd_core::http` say what is passed on and where to,
//! and moves both bodies, also at the same time; with HTTP/2 there is one for each connection and one for each request. Either side may
//! speak either protocol, and what becomes of a request (`plan`, `exchange`) is the same for all. Connections to targets are kept by the
//! worker and used by whichever client comes next. A connection that waits holds no buffer; a body is never held as a whole.

mod admit;
mod answering;
mod client;
mod exchange;
mod flow;
mod handshake;
mod http2;
mod journal;
mod kept;
mod passage;
mod passwords;
mod patience;
mod plan;
mod press;
mod secure;
mod session;
mod site;
mod stream;
mod target;
mod tie;
mod transport;
mod tunnel;
mod upstream;
mod watch;
mod websocket;

use lbd_core::http::framing::Fault;

pub(crate) use client::serve;
pub(crate) use http2::Multiplexed;
pub(crate) use kept::Kept;
pub(crate) use press::Presses;
pub(crate) use site::{Budget, Site};
pub(crate) use tie::Rejected;
pub(crate) use watch::Watches;

common::named! {
    /// Why the answer to a request did not come to its end, or none came.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(crate) enum Cut {
        /// The client reset the connection, or ended it within its request.
        Client => "client",
        /// The target ended the connection before the answer's end.
        Target => "target",
        /// What the target sent is no answer.
        BadAnswer => "bad_answer",
        /// No answer within `timeout.response`.
        NoAnswer => "no_answer",
        /// No byte of the client's body for `timeout.idle`, before there was an answer.
        NoBody => "no_body",
        /// Otherwise no byte in either direction for `timeout.idle`.
        Idle => "idle",
        /// The target or the virtual IP has been drained for `drain_timeout`.
        Drained => "drained",
        /// The daemon stopped.
        Stopped => "stopped",
        /// The client's body could not be understood when the answer had begun.
        BadBody => "bad_body",
        /// The client's body was longer than it may be.
        BodyTooLong => "body_too_long",
        /// The client sent its body, or took the answer's, more slowly than it may.
        Slow => "slow",
    }
}

impl Cut {
    /// What a body that is refused while it is passed on is.
    const fn of_body(fault: Fault) -> Self {
        if matches!(fault, Fault::BodyTooLong) { Self::BodyTooLong } else { Self::BadBody }
    }

    /// What the client is answered, as long as nothing was; nothing if nobody is left to read it.
    const fn status(self) -> Option<u16> {
        match self {
            Self::Client => None,
            Self::Target | Self::BadAnswer => Some(502),
            Self::NoAnswer | Self::Idle => Some(504),
            Self::NoBody | Self::Slow => Some(408),
            Self::Drained | Self::Stopped => Some(503),
            Self::BadBody => Some(400),
            Self::BodyTooLong => Some(413),
        }
    }
}

#[cfg(test)]
mod tests {
    use lbd_core::access_log::{Stage, Termination};

    use super::*;
    use crate::l4::{End, Refusal};

    /// The access log knows ends by their names.
    #[test]
    fn no_end_but_a_refusal_of_the_request_passes_for_one() {
        let of = |end| Termination::of(end, Stage::Headers, false).to_string();
        let before = |end| Termination::of(end, Stage::Request, false).to_string();
        for cut in Cut::ALL {
            assert_ne!(of(cut.name()), "PR", "{cut:?}");
        }
        for end in End::ALL {
            let of_tunnel = Termination::of(end.name(), Stage::Data, false).to_string();
            assert_ne!(of_tunnel, "PR", "{end:?}");
        }
        for refusal in [
            Refusal::ClientGone,
            Refusal::TargetsFull,
            Refusal::QueueFull,
            Refusal::QueueTimeout,
            Refusal::Local,
            Refusal::ConnectFailed,
            Refusal::ConnectTimeout,
            Refusal::NoTarget,
        ] {
            assert_ne!(of(refusal.name()), "PR", "{refusal:?}");
        }
        for fault in Fault::ALL.into_iter().filter(|fault| *fault != Fault::BodyTooLong) {
            assert_eq!(before(fault.name()), "PR", "{fault:?}");
        }
    }
}

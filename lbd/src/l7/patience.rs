//! How long is waited while bodies move: `timeout.idle` for the next byte of either side, and for a client not longer than
//! `limits.min_body_bytes_per_second` allows.

use std::time::Duration;

use common::config::Service;
use lbd_core::http::pace::Pace;

use super::Cut;
use super::flow::Flow;
use crate::clock::Clock;

/// For one request.
#[derive(Debug)]
pub(super) struct Patience {
    idle: Duration,
    /// Of what the client sends, and of what it takes.
    paces: Option<Box<[Pace; 2]>>,
    /// Whether it is the client's pace that ends the wait.
    slow: bool,
}

impl Patience {
    /// As a service has it.
    pub(super) fn new(service: &Service) -> Self {
        let slowest = service.http.as_ref().and_then(|http| http.body_bytes_per_second_min);
        let paces = slowest.map(|slowest| Box::new([Pace::new(slowest); 2]));
        Self { idle: service.timeout.idle, paces, slow: false }
    }

    /// How long may be waited from now on. `up` is the request while it is not all sent, `down` the answer once there is one.
    pub(super) fn limit(&mut self, up: Option<&Flow<'_>>, down: Option<&Flow<'_>>, clock: Clock) -> Duration {
        let Some([sends, takes]) = self.paces.as_deref_mut() else { return self.idle };
        let now = clock.at();
        let up = up.and_then(|up| sends.moved(up.moved(), !up.is_writing(), now));
        let down = down.and_then(|down| takes.moved(down.moved(), down.is_writing(), now));
        let left = up.into_iter().chain(down).min().unwrap_or(Duration::MAX);
        self.slow = left < self.idle;
        left.min(self.idle)
    }

    /// What the end of the wait is for the request.
    pub(super) const fn cut(&self) -> Cut {
        if self.slow { Cut::Slow } else { Cut::Idle }
    }
}

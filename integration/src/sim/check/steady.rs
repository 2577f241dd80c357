//! A reload, an unplugged peer link, a backup's `lbd` that restarts, a stepped wall clock and a LAN that repeats and
//! reorders packets change no role.

use super::{Checker, name};
use crate::sim::view::{Seen, View};

#[derive(Default)]
pub(super) struct Steady {
    on: bool,
}

impl Checker for Steady {
    fn name(&self) -> &'static str {
        "steady"
    }

    fn seen(&mut self, view: &View, seen: Seen<'_>) -> Result<(), String> {
        match seen {
            Seen::Benign(on) => self.on = on,
            Seen::Role { host, router, from, to, reason } if self.on => {
                return Err(format!(
                    "node {} went from {} to {} for {} ({reason:?}) although nothing happened that may change a role",
                    name(host),
                    from.name(),
                    to.name(),
                    view.routers[router].name
                ));
            }
            _ => {}
        }
        Ok(())
    }
}

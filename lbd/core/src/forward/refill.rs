//! When flows that come from another layout of the maps are given their ports, where these could not be taken over: after each copy of flows, and
//! again after a failure. A flow without its port has no way back to its client.

/// What is still to be done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Refill {
    /// More flows may come from another layout, without their ports.
    more_come: bool,
    /// Flows that have come may lack theirs.
    due: bool,
}

impl Refill {
    /// `ports_lost`: flows come from another layout and their ports do not. `unfinished`: a former life has begun this, and not ended it.
    #[must_use]
    pub const fn new(ports_lost: bool, unfinished: bool) -> Self {
        Self { more_come: ports_lost, due: unfinished }
    }

    /// Flows were copied from another layout. `last`: its programs are gone, so that no more come.
    pub const fn copied(&mut self, last: bool) {
        self.due |= self.more_come;
        self.more_come &= !last;
    }

    /// Whether all flows are to be given their ports now.
    #[must_use]
    pub const fn is_due(&self) -> bool {
        self.due
    }

    /// All flows have been given their ports.
    pub const fn done(&mut self) {
        self.due = false;
    }

    /// Whether a flow may lack its port, now or after the next copy: then an answer for a port that nobody has may be this flow's.
    #[must_use]
    pub const fn are_missing(&self) -> bool {
        self.more_come || self.due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_missing_until_those_of_the_last_flows_are_written() {
        let mut refill = Refill::new(true, false);
        assert!(refill.are_missing() && !refill.is_due(), "no flow is here yet");
        refill.copied(false);
        assert!(refill.is_due());
        refill.done();
        assert!(refill.are_missing() && !refill.is_due(), "the other layout's programs go on");
        refill.copied(true);
        assert!(refill.are_missing() && refill.is_due());
        refill.done();
        assert!(!refill.are_missing() && !refill.is_due());
    }

    #[test]
    fn what_failed_is_due_until_it_is_done() {
        // The first time fails, and the last flows come meanwhile.
        let mut refill = Refill::new(true, false);
        refill.copied(false);
        refill.copied(true);
        assert!(refill.is_due() && refill.are_missing());
        // So it does in a former life.
        let mut refill = Refill::new(false, true);
        assert!(refill.is_due() && refill.are_missing());
        refill.done();
        assert_eq!(refill, Refill::default());
    }

    #[test]
    fn nothing_is_due_where_ports_were_taken_over() {
        let mut refill = Refill::new(false, false);
        refill.copied(false);
        refill.copied(true);
        assert_eq!(refill, Refill::default());
        assert!(!refill.is_due() && !refill.are_missing());
    }
}

//! How health checks through virtual IPs reach their targets: told by the thread that writes the maps, once everything that
//! they take is in its place.

use std::collections::BTreeMap;
use std::sync::Arc;

use lbd_core::forward::plan::Check;
use lbd_core::target::TargetKey;
use tokio::sync::watch;

/// None while the kernel does not forward, or not yet.
type Told = Arc<BTreeMap<TargetKey, Check>>;

/// What is told, to whoever wants to hear.
#[derive(Clone, Debug, Default)]
pub(crate) struct Checks(watch::Sender<Told>);

impl Checks {
    /// Tells it, if it is something new.
    pub(super) fn set(&self, checks: BTreeMap<TargetKey, Check>) {
        self.0.send_if_modified(|told| {
            let changed = **told != checks;
            if changed {
                *told = Arc::new(checks);
            }
            changed
        });
    }

    /// Hears how a target is checked.
    pub(crate) fn of(&self, target: &TargetKey) -> CheckOf {
        CheckOf { told: self.0.subscribe(), key: target.clone() }
    }
}

/// How one target is checked.
#[derive(Debug)]
pub(crate) struct CheckOf {
    told: watch::Receiver<Told>,
    key: TargetKey,
}

impl CheckOf {
    /// How, now; none if it is not known yet.
    pub(crate) fn now(&mut self) -> Option<Check> {
        self.told.borrow_and_update().get(&self.key).copied()
    }

    /// Waits until it may have changed since [`Self::now`].
    pub(crate) async fn changed(&mut self) {
        if self.told.changed().await.is_err() {
            // Nobody tells any more: the daemon is at its end.
            std::future::pending::<()>().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_new_is_told() {
        let checks = Checks::default();
        let address = "192.0.2.31:80".parse().unwrap();
        let key = TargetKey { group: "g".to_owned(), id: "t".to_owned(), address };
        let mut one = checks.of(&key);
        assert_eq!(one.now(), None);
        let told = BTreeMap::from([(key, Check::Lost)]);
        checks.set(told.clone());
        assert!(one.told.has_changed().unwrap());
        assert_eq!(one.now(), Some(Check::Lost));
        checks.set(told);
        assert!(!one.told.has_changed().unwrap());
        checks.set(BTreeMap::new());
        assert_eq!(one.now(), None);
    }
}

//! How those who change a table have somebody look at what has changed.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};

/// One bell for many tables: whoever changes something rings it, and whoever listens looks at all of them.
///
/// Ringing costs a look at one value as long as it has been rung already, or nobody listens.
pub struct Bell {
    listened: AtomicBool,
    rung: AtomicBool,
    ring: Box<dyn Fn() + Send + Sync>,
}

impl Bell {
    /// A bell that calls `ring`, from any thread, when it is rung for the first time since it was [taken](Self::take).
    #[must_use]
    pub fn new(ring: impl Fn() + Send + Sync + 'static) -> Self {
        Self { listened: AtomicBool::new(false), rung: AtomicBool::new(false), ring: Box::new(ring) }
    }

    /// Whether somebody wants to hear of changes. Without, nobody is to remember them.
    #[must_use]
    pub fn is_listened_to(&self) -> bool {
        self.listened.load(Ordering::Relaxed)
    }

    /// Says whether somebody wants to hear of changes from now on.
    pub fn listen(&self, listens: bool) {
        self.listened.store(listens, Ordering::Relaxed);
    }

    /// Something has changed, and is there to be seen.
    pub fn ring(&self) {
        if self.is_listened_to() && !self.rung.swap(true, Ordering::AcqRel) {
            (self.ring)();
        }
    }

    /// Whether it was rung since this was asked last. What changes from now on rings it again.
    pub fn take(&self) -> bool {
        self.rung.load(Ordering::Relaxed) && self.rung.swap(false, Ordering::AcqRel)
    }
}

impl Default for Bell {
    /// One that nobody hears.
    fn default() -> Self {
        Self::new(|| ())
    }
}

impl fmt::Debug for Bell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bell")
            .field("listened", &self.listened)
            .field("rung", &self.rung)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::AtomicU32;

    #[test]
    fn it_rings_once_until_somebody_has_looked() {
        let count = Arc::new(AtomicU32::new(0));
        let heard = Arc::clone(&count);
        let bell = Bell::new(move || {
            heard.fetch_add(1, Ordering::Relaxed);
        });
        bell.ring();
        assert!(!bell.take() && count.load(Ordering::Relaxed) == 0, "nobody listens");
        bell.listen(true);
        bell.ring();
        bell.ring();
        assert_eq!((count.load(Ordering::Relaxed), bell.take(), bell.take()), (1, true, false));
        bell.ring();
        assert_eq!(count.load(Ordering::Relaxed), 2);
    }
}

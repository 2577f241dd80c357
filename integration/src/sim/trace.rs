//! The account of a run, for the person who has to find out what went wrong.

use std::fmt::Write as _;

use super::clock::Moment;

/// What is written down, if anything.
#[derive(Clone, Debug, Default)]
pub struct Trace {
    lines: Option<Vec<String>>,
}

/// Lines kept; what comes later is not written down, and that is said.
const LINES_MAX: usize = 200_000;

impl Trace {
    /// Writes nothing down: for the thousands of runs that go well.
    #[must_use]
    pub const fn off() -> Self {
        Self { lines: None }
    }

    /// Writes everything down.
    #[must_use]
    pub const fn on() -> Self {
        Self { lines: Some(Vec::new()) }
    }

    /// Writes a line, which is only made if it is wanted.
    pub fn note(&mut self, now: Moment, line: impl FnOnce() -> String) {
        let Some(lines) = &mut self.lines else { return };
        if lines.len() < LINES_MAX {
            let micros = now.as_nanos() / 1000;
            lines.push(format!("{:>5}.{:06} {}", micros / 1_000_000, micros % 1_000_000, line()));
        }
    }

    /// The last `count` lines.
    #[must_use]
    pub fn tail(&self, count: usize) -> String {
        let lines = self.lines.as_deref().unwrap_or_default();
        let from = lines.len().saturating_sub(count);
        let mut text = String::new();
        if from > 0 && writeln!(text, "({from} earlier lines left out)").is_err() {
            debug_assert!(false, "writing to a String does not fail");
        }
        for line in &lines[from..] {
            text.push_str(line);
            text.push('\n');
        }
        text
    }
}

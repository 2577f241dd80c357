//! What can go wrong in the lab.

use std::io;
use std::time::Duration;

/// An error of the lab itself, as opposed to a failing check of what is tested in it.
#[derive(Debug, thiserror::Error)]
pub enum LabError {
    /// A system call or file operation failed.
    #[error("{doing}: {source}")]
    Io {
        /// What was being done.
        doing: String,
        /// What failed.
        source: io::Error,
    },
    /// A program that has to succeed did not.
    #[error("`{command}` ended with {status}: {stderr}")]
    Command {
        /// The program with its arguments.
        command: String,
        /// Its exit status.
        status: String,
        /// What it wrote to standard error.
        stderr: String,
    },
    /// A condition did not come true in time.
    #[error("waited {waited:?} in vain for {what}")]
    Timeout {
        /// The condition.
        what: String,
        /// How long it was given.
        waited: Duration,
    },
    /// Something named is not part of this lab.
    #[error("no {kind} is called {name:?}; this lab has: {known}")]
    Unknown {
        /// What kind of thing it is.
        kind: &'static str,
        /// The name asked for.
        name: String,
        /// The names there are.
        known: String,
    },
    /// An answer was not what the protocol allows.
    #[error("{asked} was answered with {answer:?}")]
    Answer {
        /// What was asked.
        asked: String,
        /// The answer, shortened.
        answer: String,
    },
}

/// The lab's result.
pub type Result<T> = std::result::Result<T, LabError>;

/// Gives an error of the standard library or of a system call its context.
pub(crate) trait Context<T> {
    /// Says what was being done.
    fn doing(self, doing: impl FnOnce() -> String) -> Result<T>;
}

impl<T, E: Into<io::Error>> Context<T> for std::result::Result<T, E> {
    fn doing(self, doing: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|error| LabError::Io { doing: doing(), source: error.into() })
    }
}

//! Why a session ends.

use common::wire::WireError;

use super::hello::{MAJOR, MINOR};

/// Why a session ended, or was refused at its beginning. The next connection begins anew, with a snapshot.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SessionError {
    /// The peer is of another major version.
    #[error(
        "replication with the peer was refused: it speaks protocol version {major}.{minor}, this node {MAJOR}.{MINOR}, and only \
         versions with the same first number understand each other; run releases of Tandem on both nodes that do"
    )]
    Major {
        /// The peer's.
        major: u16,
        /// The peer's.
        minor: u16,
    },
    /// This node has connected to itself.
    #[error(
        "replication was refused: the node {0:?} has connected to itself; give each [[node]] its own peer_address, and run this one \
         with its own name (--node)"
    )]
    Itself(String),
    /// Both nodes have the same name.
    #[error(
        "replication with the peer was refused: it says that it is the node {0:?}, which this one is; start one of them with the \
         other node's name (--node)"
    )]
    SameName(String),
    /// It did not say who it is.
    #[error(
        "the peer connected for replication and did not say in time who it is; see whether its lbd hangs or something else than \
         lbd answers at its peer_address"
    )]
    Silent,
    /// Nothing came from it any more.
    #[error(
        "the replication stream was given up: nothing came from the peer for too long; see whether it is up and the link \
         between the nodes works"
    )]
    Idle,
    /// What came is no frame.
    #[error(
        "the replication stream was given up: what came from the peer is not valid ({0}); it is connected again with a full \
         snapshot; if this is repeated, run the same Tandem release on both nodes"
    )]
    Malformed(WireError),
    /// A frame was lost, repeated, or acknowledged before it was sent.
    #[error(
        "the replication stream was given up: the peer sent number {found} where {expected} was due; it is connected again with a \
         full snapshot; if this is repeated, run the same Tandem release on both nodes"
    )]
    Sequence {
        /// What was due, or the last that may be acknowledged.
        expected: u64,
        /// What came.
        found: u64,
    },
    /// A frame came when it makes no sense.
    #[error(
        "the replication stream was given up: the peer sent {0} when it made no sense; it is connected again with a full \
         snapshot; if this is repeated, run the same Tandem release on both nodes"
    )]
    Unexpected(&'static str),
    /// The peer's dictionary is larger than it may be.
    #[error(
        "the replication stream was given up: the peer numbered a name {0}, beyond the limit; run the same Tandem release on \
         both nodes"
    )]
    NameNumber(u32),
    /// The shell saw the end of the stream.
    #[error("the replication stream ended; it is connected again with a full snapshot")]
    Disconnected,
}

common::named! {
    /// Kinds of [`SessionError`], for counters.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum SessionEnd {
        /// [`SessionError::Major`].
        Major => "other_major_version",
        /// [`SessionError::Itself`].
        Itself => "self_connection",
        /// [`SessionError::SameName`].
        SameName => "same_name",
        /// [`SessionError::Silent`].
        Silent => "no_hello",
        /// [`SessionError::Idle`].
        Idle => "idle",
        /// A frame larger than it may be.
        Oversized => "oversized",
        /// Any other [`SessionError::Malformed`], and [`SessionError::NameNumber`].
        Malformed => "malformed",
        /// [`SessionError::Sequence`] and [`SessionError::Unexpected`].
        OutOfOrder => "out_of_order",
        /// [`SessionError::Disconnected`].
        Disconnected => "disconnected",
    }
}

impl SessionEnd {
    /// Whether the two nodes do not fit together, so that connecting again soon would be refused again.
    #[must_use]
    pub const fn is_refusal(self) -> bool {
        matches!(self, Self::Major | Self::Itself | Self::SameName)
    }
}

impl SessionError {
    /// Its kind.
    #[must_use]
    pub const fn kind(&self) -> SessionEnd {
        match self {
            Self::Major { .. } => SessionEnd::Major,
            Self::Itself(_) => SessionEnd::Itself,
            Self::SameName(_) => SessionEnd::SameName,
            Self::Silent => SessionEnd::Silent,
            Self::Idle => SessionEnd::Idle,
            Self::Malformed(WireError::Size { .. }) => SessionEnd::Oversized,
            Self::Malformed(_) | Self::NameNumber(_) => SessionEnd::Malformed,
            Self::Sequence { .. } | Self::Unexpected(_) => SessionEnd::OutOfOrder,
            Self::Disconnected => SessionEnd::Disconnected,
        }
    }
}

impl From<WireError> for SessionError {
    fn from(error: WireError) -> Self {
        Self::Malformed(error)
    }
}

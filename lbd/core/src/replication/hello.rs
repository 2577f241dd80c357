//! Who is at the other end, and which protocol the two speak.

use std::sync::Arc;

use common::wire;

use super::entry::Table;
use super::error::SessionError;
use super::frame::{FRAME_SIZE_MAX, HelloBody, Opening};
use super::ledger::GENERATION_MAX;
use super::names::NAME_LENGTH_MAX;
use super::settings::Settings;

/// The protocol's major version: nodes with different ones do not understand each other.
pub const MAJOR: u16 = 1;

/// The protocol's minor version: of two, the lower one is spoken. Version 1 added the table of health states, version 2 what
/// the nodes say of proxied connections, version 3 the table of who belongs to target groups, which node has a session in
/// a socket, version 4 what rings are made of, version 5 which release says hello, and notes.
pub const MINOR: u16 = 5;

/// The first one with [`super::Replica::say`].
pub(super) const MINOR_OF_WORDS: u16 = 2;

/// The first one with `here` in a session.
pub(super) const MINOR_OF_HOLDERS: u16 = 3;

/// The first one in which rings are told.
pub(super) const MINOR_OF_RINGS: u16 = 4;

/// The first one with the sender's release in its hello.
pub(super) const MINOR_OF_RELEASES: u16 = 5;

/// The longest name of a release, in bytes.
pub const RELEASE_LENGTH_MAX: usize = 64;

/// The first one with [`super::Replica::note`].
pub(super) const MINOR_OF_NOTES: u16 = 5;

/// Tables that a hello may list: more than there are, for later versions.
const TABLES_MAX: usize = 64;

/// What the peer said of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// Its node name.
    pub node: Arc<str>,
    /// Another one for each replica.
    pub boot: u64,
    /// Another one after each start of its process, which may have one replica after the other.
    pub process: u64,
    /// The hash of its configuration. If it is not ours, replication goes on: what names unknown services or targets is skipped.
    pub config_hash: u64,
    /// Its release; nothing of one that does not say. Another one than ours is no trouble: what is spoken is said by `minor`.
    pub release: Option<Arc<str>>,
    /// The minor protocol version that is spoken: the lower of both.
    pub minor: u16,
    /// The protocol version it could speak.
    pub minor_max: u16,
    /// How many entries its tables may have, by [`Table::index`]; 0 for those it does not know.
    pub tables: [u32; Table::COUNT],
    pub(super) generation: u64,
}

/// What this node says first.
pub(super) fn opening(settings: &Settings, generation: u64) -> Opening {
    let tables = Table::ALL.map(|table| (table.number(), settings.tables[table.index()])).to_vec();
    let body = HelloBody {
        node: settings.node.to_string(),
        boot: settings.boot,
        config_hash: settings.config_hash,
        generation,
        tables,
    };
    let mut bytes = Vec::new();
    // Memory is all that it could want; a hello that does not decode is refused by the peer.
    wire::append(&body, &mut bytes).unwrap_or_default();
    wire::append(&settings.process, &mut bytes).unwrap_or_default();
    if settings.minor >= MINOR_OF_RELEASES {
        wire::append(&settings.release.to_string(), &mut bytes).unwrap_or_default();
    }
    Opening { major: MAJOR, minor: settings.minor, body: bytes }
}

/// What the peer's first frame says, or why it is refused.
pub(super) fn accept(opening: &Opening, settings: &Settings) -> Result<Hello, SessionError> {
    if opening.major != MAJOR {
        return Err(SessionError::Major { major: opening.major, minor: opening.minor });
    }
    // What a later minor version may have added stays in `rest`.
    let mut rest = &opening.body[..];
    let body: HelloBody = wire::take_within::<FRAME_SIZE_MAX, _>(&mut rest)?;
    if body.node.len() > NAME_LENGTH_MAX || body.tables.len() > TABLES_MAX {
        return Err(SessionError::Unexpected("a hello beyond its limits"));
    }
    // Who says nothing of its process has one replica in it.
    let process =
        if rest.is_empty() { body.boot } else { wire::take_within::<FRAME_SIZE_MAX, _>(&mut rest)? };
    let release = if opening.minor < MINOR_OF_RELEASES || rest.is_empty() {
        None
    } else {
        let release: String = wire::take_within::<FRAME_SIZE_MAX, _>(&mut rest)?;
        // It is shown in terminals.
        if release.len() > RELEASE_LENGTH_MAX || !release.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(SessionError::Unexpected("a release that is no name of one"));
        }
        Some(release).filter(|release| !release.is_empty())
    };
    if *body.node == *settings.node {
        let same_process = process == settings.process;
        let refusal = if same_process { SessionError::Itself } else { SessionError::SameName };
        return Err(refusal(body.node));
    }
    let mut tables = [0; Table::COUNT];
    for (number, size) in body.tables {
        if let Some(table) = Table::of_number(number) {
            tables[table.index()] = size;
        }
    }
    Ok(Hello {
        node: Arc::from(body.node),
        boot: body.boot,
        process,
        config_hash: body.config_hash,
        release: release.map(Arc::from),
        minor: opening.minor.min(settings.minor),
        minor_max: opening.minor,
        tables,
        generation: body.generation.min(GENERATION_MAX),
    })
}

//! Entries as the bytes of a batch, and back.

use common::wire::{self, WireError};

use super::entry::{Entry, Flow, Key, Live, Member, Membership, Table};
use super::frame::{
    FRAME_SIZE_MAX, Head, MemberValue, SessionValue, SourceKey, TargetValue, TupleKey, from_millis,
};
use super::hello::MINOR_OF_HOLDERS;
use super::names::{NameId, Translation};

/// Adds an entry to a batch of its table, as the minor version has it.
pub(super) fn encode_entry(
    entry: &Entry,
    head: Head,
    minor: u16,
    out: &mut Vec<u8>,
) -> Result<(), WireError> {
    append_head(head, out);
    match *entry {
        Entry::Flow(flow) => {
            append_flow(&flow, out);
            Ok(())
        }
        Entry::Sticky { group, source, target } => {
            wire::append(&(SourceKey { name: group.number(), source }, target.number()), out)
        }
        Entry::UdpSession { tuple, service, target, here } => {
            let value = SessionValue { service: service.number(), target: target.number() };
            wire::append(&(TupleKey { tuple }, value), out)?;
            if minor >= MINOR_OF_HOLDERS { wire::append(&here, out) } else { Ok(()) }
        }
        Entry::Rate { service, source, total } => {
            wire::append(&(SourceKey { name: service.number(), source }, total), out)
        }
        Entry::Target { target, state, weight } => {
            wire::append(&(target.number(), TargetValue { state, weight }), out)
        }
        Entry::Health { target, state } => wire::append(&(target.number(), state), out),
        Entry::Member { target, said } => wire::append(&(target.number(), member_value(said)), out),
    }
}

/// Each field by itself, as of a flow: most of what is sent.
fn append_head(head: Head, out: &mut Vec<u8>) {
    wire::append_signed(head.generation, out);
    wire::append_number(head.remaining_ms.into(), out);
}

/// Takes what [`append_head`] added.
fn take_head(bytes: &mut &[u8]) -> Result<Head, WireError> {
    Ok(Head { generation: wire::take_signed(bytes)?, remaining_ms: wire::take_number(bytes)? })
}

fn append_flow(flow: &Flow, out: &mut Vec<u8>) {
    out.extend_from_slice(&flow.tuple);
    wire::append_number(flow.service.number().into(), out);
    wire::append_number(flow.target.number().into(), out);
    wire::append_number(flow.port.into(), out);
    out.push(flow.state);
}

/// Takes what [`append_flow`] added.
fn take_flow(bytes: &mut &[u8], names: &Translation) -> Result<Option<Entry>, WireError> {
    let short = || WireError::Malformed("a flow that is cut off".to_owned());
    let (&tuple, rest) = bytes.split_first_chunk().ok_or_else(short)?;
    *bytes = rest;
    let (service, target) = (wire::take_number(bytes)?, wire::take_number(bytes)?);
    let port = wire::take_number(bytes)?;
    let (&state, rest) = bytes.split_first().ok_or_else(short)?;
    *bytes = rest;
    let flow = |(service, target)| Entry::Flow(Flow { tuple, service, target, port, state });
    Ok(both(names, service, target).map(flow))
}

/// Adds the key of what is gone to a batch of its table.
pub(super) fn encode_key(key: &Key, generation: i64, out: &mut Vec<u8>) -> Result<(), WireError> {
    wire::append(&generation, out)?;
    match *key {
        Key::Flow(tuple) | Key::UdpSession(tuple) => wire::append(&TupleKey { tuple }, out),
        Key::Sticky { group: name, source } | Key::Rate { service: name, source } => {
            wire::append(&SourceKey { name: name.number(), source }, out)
        }
        Key::Target(target) | Key::Health(target) | Key::Member(target) => {
            wire::append(&target.number(), out)
        }
    }
}

/// Something decoded, with its generation less the frame's base. `None` if it refers to a name that this node has no number for.
pub(super) type Decoded<T> = (i64, Option<T>);

fn take<T: bincode::Decode<()>>(bytes: &mut &[u8]) -> Result<T, WireError> {
    wire::take_within::<FRAME_SIZE_MAX, T>(bytes)
}

/// Takes an entry from the front of a batch.
pub(super) fn decode_entry(
    table: Table,
    bytes: &mut &[u8],
    names: &Translation,
    minor: u16,
) -> Result<Decoded<Live>, WireError> {
    let head = take_head(bytes)?;
    let entry = match table {
        Table::Flows => take_flow(bytes, names)?,
        Table::Sticky => {
            let (SourceKey { name, source }, target): (SourceKey, u32) = take(bytes)?;
            both(names, name, target).map(|(group, target)| Entry::Sticky { group, source, target })
        }
        Table::UdpSessions => {
            let (TupleKey { tuple }, SessionValue { service, target }) = take(bytes)?;
            let here = minor >= MINOR_OF_HOLDERS && take(bytes)?;
            both(names, service, target).map(|(service, target)| Entry::UdpSession {
                tuple,
                service,
                target,
                here,
            })
        }
        Table::Rates => {
            let (SourceKey { name, source }, total): (SourceKey, u64) = take(bytes)?;
            names.local(name).map(|service| Entry::Rate { service, source, total })
        }
        Table::Targets => {
            let (target, TargetValue { state, weight }): (u32, TargetValue) = take(bytes)?;
            names.local(target).map(|target| Entry::Target { target, state, weight })
        }
        Table::Health => {
            let (target, state): (u32, u8) = take(bytes)?;
            names.local(target).map(|target| Entry::Health { target, state })
        }
        Table::Members => {
            let (target, value): (u32, MemberValue) = take(bytes)?;
            let said = membership(value, names);
            names.local(target).zip(said).map(|(target, said)| Entry::Member { target, said })
        }
    };
    Ok((head.generation, entry.map(|entry| Live { entry, remaining: from_millis(head.remaining_ms) })))
}

/// Takes the key of what is gone from the front of a batch.
pub(super) fn decode_key(
    table: Table,
    bytes: &mut &[u8],
    names: &Translation,
) -> Result<Decoded<Key>, WireError> {
    let generation: i64 = take(bytes)?;
    let key = match table {
        Table::Flows => Some(Key::Flow(take::<TupleKey>(bytes)?.tuple)),
        Table::UdpSessions => Some(Key::UdpSession(take::<TupleKey>(bytes)?.tuple)),
        Table::Sticky => {
            let SourceKey { name, source } = take(bytes)?;
            names.local(name).map(|group| Key::Sticky { group, source })
        }
        Table::Rates => {
            let SourceKey { name, source } = take(bytes)?;
            names.local(name).map(|service| Key::Rate { service, source })
        }
        Table::Targets => names.local(take(bytes)?).map(Key::Target),
        Table::Health => names.local(take(bytes)?).map(Key::Health),
        Table::Members => names.local(take(bytes)?).map(Key::Member),
    };
    Ok((generation, key))
}

fn member_value(said: Membership) -> MemberValue {
    match said {
        Membership::Given => MemberValue::Given,
        Membership::Deleted => MemberValue::Deleted,
        Membership::Added(Member { address, port, weight, backup, zone, max_connections, instead }) => {
            let zone = zone.map(NameId::number);
            MemberValue::Added { address, port, weight, backup, zone, max_connections, instead }
        }
    }
}

/// `None` if it refers to a zone that this node has no number for.
fn membership(value: MemberValue, names: &Translation) -> Option<Membership> {
    Some(match value {
        MemberValue::Given => Membership::Given,
        MemberValue::Deleted => Membership::Deleted,
        MemberValue::Added { address, port, weight, backup, zone, max_connections, instead } => {
            let zone = match zone {
                None => None,
                Some(zone) => Some(names.local(zone)?),
            };
            Membership::Added(Member { address, port, weight, backup, zone, max_connections, instead })
        }
    })
}

fn both(names: &Translation, one: u32, other: u32) -> Option<(NameId, NameId)> {
    Some((names.local(one)?, names.local(other)?))
}

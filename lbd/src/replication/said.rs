//! Words on targets as entries of the core, and back.

use std::net::SocketAddr;

use common::config::Target;
use lbd_core::forward::abi::Address;
use lbd_core::group::{Said, WEIGHT_MAX};
use lbd_core::replication::{Cursor, Entry, Live, Member, Membership, Name, NameId, Replica};

use super::ids::Ids;
use super::strangers::Misfit;
use super::words::Word;

/// Hands the entries of a walk through words on; answers where to go on.
pub(super) fn page<'a, W: 'a>(
    words: impl Iterator<Item = (&'a str, &'a str, &'a W)>,
    limit: usize,
    mut visit: impl FnMut(&str, &str, &W),
) -> Option<Cursor> {
    let (mut last, mut count) = (None, 0);
    for (group, id, word) in words {
        visit(group, id, word);
        last = Some((group, id));
        count += 1;
    }
    last.filter(|_| count == limit).map(|(group, id)| Cursor(write_pair(group, id)))
}

/// What was said of who belongs to a group, for the core; none of what cannot be told.
pub(super) fn live_member(
    replica: &mut Replica,
    ids: &mut Ids,
    group: &str,
    id: &str,
    said: &Said,
) -> Option<Live> {
    let target = ids.target(replica, group, id)?;
    let said = match said {
        Said::Given => Membership::Given,
        Said::Deleted => Membership::Deleted,
        Said::Added { target, instead } => {
            let zone = match &target.zone {
                Some(zone) => Some(replica.name(Name::Zone(zone.as_str().into())).ok()?),
                None => None,
            };
            // A link's number means nothing to another host.
            let scoped = matches!(target.address, SocketAddr::V6(address) if address.scope_id() != 0);
            (!scoped).then_some(())?;
            Membership::Added(Member {
                address: Address::from(target.address.ip()).0,
                port: target.address.port(),
                weight: target.weight,
                backup: target.backup,
                zone,
                max_connections: target.max_connections,
                instead: *instead,
            })
        }
    };
    Some(Live { entry: Entry::Member { target, said }, remaining: None })
}

/// The same back: group, id, and what was said.
pub(super) fn member_of(
    replica: &Replica,
    target: NameId,
    said: Membership,
) -> Result<(String, String, Said), Misfit> {
    let Some(Name::Target { group, id }) = replica.name_of(target) else { return Err(Misfit::Invalid) };
    let said = match said {
        Membership::Given => Said::Given,
        Membership::Deleted => Said::Deleted,
        Membership::Added(member) => {
            let zone = match member.zone.map(|zone| replica.name_of(zone)) {
                None => None,
                Some(Some(Name::Zone(zone))) => Some(zone.to_string()),
                Some(_) => return Err(Misfit::Invalid),
            };
            if member.weight > WEIGHT_MAX || member.max_connections == Some(0) {
                return Err(Misfit::Invalid);
            }
            let target = Target {
                id: id.to_string(),
                address: SocketAddr::new(Address(member.address).ip(), member.port),
                weight: member.weight,
                backup: member.backup,
                zone,
                max_connections: member.max_connections,
            };
            Said::Added { target, instead: member.instead }
        }
    };
    Ok((group.to_string(), id.to_string(), said))
}

/// What was said of a target's state and weight, for the core.
pub(super) fn live_word(
    replica: &mut Replica,
    ids: &mut Ids,
    group: &str,
    id: &str,
    word: Word,
) -> Option<Live> {
    let target = ids.target(replica, group, id)?;
    Some(Live { entry: Entry::Target { target, state: word.state(), weight: word.weight }, remaining: None })
}

/// Group and target as the bytes of a cursor: the first one's length comes first.
fn write_pair(one: &str, other: &str) -> Vec<u8> {
    let length = (one.len() as u64).to_le_bytes();
    [&length[..], one.as_bytes(), other.as_bytes()].concat()
}

/// Group and target after which a scan goes on.
pub(super) fn read_pair(bytes: &[u8]) -> Option<(&str, &str)> {
    let (length, rest) = bytes.split_first_chunk::<8>()?;
    let (one, other) = rest.split_at_checked(usize::try_from(u64::from_le_bytes(*length)).ok()?)?;
    Some((std::str::from_utf8(one).ok()?, std::str::from_utf8(other).ok()?))
}

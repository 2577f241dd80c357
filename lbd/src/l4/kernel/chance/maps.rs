//! The program and its maps.

use std::collections::BTreeMap;
use std::os::fd::AsFd;

use aya::maps::Map as AyaMap;
use aya::{Ebpf, EbpfLoader, VerifierLogLevel, include_bytes_aligned};
use lbd_core::chance::abi::{CHANCES, PEERS_MAX, Peer, Proxied, ProxiedKey, Session, Tunnel};
use lbd_core::forward::abi::FlowKey;

use super::super::bpf::Map;
use super::super::maps::Table;
use super::super::{KernelError, attach};

/// As the build compiled it, or the committed one where there is no clang.
const OBJECT: &[u8] = include_bytes_aligned!(concat!(env!("OUT_DIR"), "/chance.bpf.o"));

/// The maps, and what is in them.
#[derive(Debug)]
pub(super) struct Maps {
    proxied_at: Table<ProxiedKey, Proxied>,
    peers: Table<u32, Peer>,
    tunnel: Table<u32, Tunnel>,
    written: BTreeMap<ProxiedKey, Proxied>,
    peers_written: BTreeMap<u32, Peer>,
    tunnel_written: Tunnel,
}

/// What the program counts.
#[derive(Debug)]
pub(super) struct Counted(pub(super) Table<u32, u64>);

/// The program with its maps, which are empty.
pub(super) struct Loaded {
    pub(super) ebpf: Ebpf,
    pub(super) maps: Maps,
    pub(super) sessions: Table<FlowKey, Session>,
    pub(super) counted: Counted,
}

/// Loads the program.
pub(super) fn load() -> Result<Loaded, KernelError> {
    let mut loader = EbpfLoader::new();
    loader.verifier_log_level(VerifierLogLevel::DISABLE);
    let ebpf = loader.load(OBJECT).map_err(|error| KernelError::Load { reason: attach::text(&error) })?;
    let mut maps = BTreeMap::new();
    for name in ["proxied_at", "peers", "tunnel", "sessions", "chances"] {
        maps.insert(name.to_owned(), open(&ebpf, name)?);
    }
    let counted = Counted(Table::of(&mut maps, "chances")?);
    let sessions = Table::of(&mut maps, "sessions")?;
    let maps = Maps {
        proxied_at: Table::of(&mut maps, "proxied_at")?,
        peers: Table::of(&mut maps, "peers")?,
        tunnel: Table::of(&mut maps, "tunnel")?,
        written: BTreeMap::new(),
        peers_written: BTreeMap::new(),
        tunnel_written: Tunnel::default(),
    };
    Ok(Loaded { ebpf, maps, sessions, counted })
}

fn open(ebpf: &Ebpf, name: &str) -> Result<Map, KernelError> {
    let (Some(AyaMap::HashMap(data)) | Some(AyaMap::Array(data)) | Some(AyaMap::PerCpuArray(data))) =
        ebpf.map(name)
    else {
        return Err(KernelError::Load { reason: format!("the object has no map {name}") });
    };
    let own = data.fd().as_fd().try_clone_to_owned();
    own.and_then(Map::from_fd)
        .map_err(|source| KernelError::Map { action: format!("keeping the map {name}"), source })
}

impl Maps {
    /// Has what is proxied as it is here.
    pub(super) fn write_proxied(&mut self, wanted: BTreeMap<ProxiedKey, Proxied>) -> Result<(), KernelError> {
        for key in self.written.keys().filter(|key| !wanted.contains_key(key)) {
            self.proxied_at.delete(key)?;
        }
        for (key, value) in wanted.iter().filter(|(key, value)| self.written.get(key) != Some(value)) {
            self.proxied_at.put(key, value)?;
        }
        self.written = wanted;
        Ok(())
    }

    /// Has the tunnel as it is here.
    pub(super) fn write_tunnel(&mut self, wanted: Tunnel) -> Result<(), KernelError> {
        if self.tunnel_written != wanted {
            self.tunnel.put(&0, &wanted)?;
            self.tunnel_written = wanted;
        }
        Ok(())
    }

    /// Has the peers as they are here; nobody at the other indexes.
    pub(super) fn write_peers(&mut self, wanted: &BTreeMap<u32, Peer>) -> Result<(), KernelError> {
        for index in 1..PEERS_MAX {
            let peer = wanted.get(&index).copied().unwrap_or_default();
            if self.peers_written.get(&index).copied().unwrap_or_default() != peer {
                self.peers.put(&index, &peer)?;
                self.peers_written.insert(index, peer);
            }
        }
        Ok(())
    }
}

impl Counted {
    /// What it has counted by now, by name.
    pub(super) fn by_name(&self) -> BTreeMap<String, u64> {
        let sum = |index| self.0.get_each(&index).unwrap_or_default().iter().sum();
        (0..).zip(CHANCES).map(|(index, name)| (name.to_owned(), sum(index))).collect()
    }
}

//! Reads the classic pcap files of `testdata`: little-endian, microseconds, Ethernet.

use std::net::IpAddr;
use std::path::Path;

use common::time::UnixTime;
use vrrpd_core::packet::{Meta, PROTOCOL, split_ipv4};

/// A captured frame.
pub(crate) struct Frame {
    /// When it was captured.
    pub(crate) at: UnixTime,
    /// The frame from its Ethernet header on.
    pub(crate) bytes: Vec<u8>,
}

/// The IP packet with a VRRP message in it.
pub(crate) struct VrrpPacket<'a> {
    /// What the IP header says.
    pub(crate) meta: Meta,
    /// The payload of the IP packet.
    pub(crate) payload: &'a [u8],
}

/// The frames of `testdata/{name}.pcap` in order.
pub(crate) fn read(name: &str) -> Vec<Frame> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata").join(name).with_extension("pcap");
    let file = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let (header, mut rest) = file.split_at(24);
    assert_eq!(header[..4], 0xa1b2_c3d4_u32.to_le_bytes(), "{name}: magic");
    assert_eq!(header[20..24], 1_u32.to_le_bytes(), "{name}: link type Ethernet");
    let mut frames = Vec::new();
    while !rest.is_empty() {
        let (record, after) = rest.split_at(16);
        let field = |at: usize| u32::from_le_bytes(record[at..at + 4].try_into().unwrap());
        assert_eq!(field(8), field(12), "{name}: a frame was cut off");
        let (bytes, after) = after.split_at(usize::try_from(field(8)).unwrap());
        let nanos = u64::from(field(0)) * 1_000_000_000 + u64::from(field(4)) * 1000;
        frames.push(Frame { at: UnixTime::from_nanos(nanos), bytes: bytes.to_vec() });
        rest = after;
    }
    frames
}

impl Frame {
    /// The sender's Ethernet address.
    pub(crate) fn source_mac(&self) -> [u8; 6] {
        self.bytes[6..12].try_into().unwrap()
    }

    /// The VRRP packet in the frame, if it is one.
    pub(crate) fn vrrp(&self) -> Option<VrrpPacket<'_>> {
        let packet = &self.bytes[14..];
        let ethertype = u16::from_be_bytes([self.bytes[12], self.bytes[13]]);
        if ethertype == 0x0800 && packet[9] == PROTOCOL {
            let (meta, payload) = split_ipv4(packet).unwrap();
            Some(VrrpPacket { meta, payload })
        } else if ethertype == 0x86dd && packet[6] == PROTOCOL {
            let address = |at: usize| IpAddr::from(<[u8; 16]>::try_from(&packet[at..at + 16]).unwrap());
            let meta = Meta { source: address(8), destination: address(24), hop_limit: packet[7] };
            let length = usize::from(u16::from_be_bytes([packet[4], packet[5]]));
            Some(VrrpPacket { meta, payload: &packet[40..40 + length] })
        } else {
            None
        }
    }
}

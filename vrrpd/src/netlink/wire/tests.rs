use super::*;
use common::netlink::Answers;
use netlink_packet_core::{Emitable, NetlinkMessage};

fn bytes_of(message: Message, sequence: u32) -> Vec<u8> {
    let mut message = NetlinkMessage::from(message);
    message.header.sequence_number = sequence;
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    bytes
}

#[test]
fn what_is_added_reads_back_as_ours() {
    let vip = "fd00::100".parse().unwrap();
    let datagram = bytes_of(add_address(7, vip), 5);
    let mut answers = Answers::default();
    assert!(!answers.take(&datagram, 5, Answer::parse).unwrap());
    let address = answers.list.remove(0).address().unwrap();
    assert!(address.is_ours());
    assert_eq!((address.index, address.ip, address.prefix), (7, vip, 128));
}

#[test]
fn a_bridge_port_is_not_a_link() {
    let mut message = LinkMessage::default();
    message.header.interface_family = AddressFamily::Bridge;
    let mut bytes = vec![0; message.buffer_len()];
    message.emit(&mut bytes);
    assert_eq!(Answer::parse(libc::RTM_DELLINK, &bytes), None);
    bytes[0] = 0;
    assert!(matches!(Answer::parse(libc::RTM_DELLINK, &bytes), Some(Answer::LinkGone(_))));
}

use super::*;
use netlink_packet_core::{Emitable, NetlinkMessage};

fn bytes_of(message: Message, sequence: u32) -> Vec<u8> {
    let mut message = NetlinkMessage::from(message);
    message.header.sequence_number = sequence;
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    bytes
}

fn done(sequence: u32, code: i32) -> Vec<u8> {
    let mut bytes = vec![0; 20];
    bytes[..4].copy_from_slice(&20_u32.to_ne_bytes());
    bytes[4..6].copy_from_slice(&NLMSG_ERROR.to_ne_bytes());
    bytes[8..12].copy_from_slice(&sequence.to_ne_bytes());
    bytes[16..].copy_from_slice(&code.to_ne_bytes());
    bytes
}

#[test]
fn what_is_added_reads_back_as_ours() {
    let vip = "fd00::100".parse().unwrap();
    let datagram = [bytes_of(add_address(7, vip), 5), done(5, 0)].concat();
    let mut answers = Answers::default();
    assert!(answers.take(&datagram, 5).unwrap());
    let address = answers.list.remove(0).address().unwrap();
    assert!(address.is_ours());
    assert_eq!((address.index, address.ip, address.prefix), (7, vip, 128));
}

#[test]
fn left_overs_of_an_earlier_request_are_passed_over() {
    let vip = "10.0.0.100".parse().unwrap();
    let datagram = [bytes_of(add_address(7, vip), 4), done(4, -libc::EPERM)].concat();
    let mut answers = Answers::default();
    assert!(!answers.take(&datagram, 5).unwrap());
    assert!(answers.list.is_empty());
}

#[test]
fn a_refusal_is_an_error() {
    let error = Answers::default().take(&done(5, -libc::EPERM), 5).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EPERM));
}

#[test]
fn cut_datagrams_end_the_list() {
    let vip = "10.0.0.100".parse().unwrap();
    let bytes = bytes_of(add_address(7, vip), 5);
    for length in 0..bytes.len() {
        assert!(Messages(&bytes[..length]).next().is_none());
    }
    assert_eq!(Messages(&bytes).count(), 1);
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

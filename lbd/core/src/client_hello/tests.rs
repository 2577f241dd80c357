//! Hellos of OpenSSL, whole and in pieces, and hellos that nobody should send.

use proptest::prelude::*;

use super::*;

/// `openssl s_client -servername Shop.Example.org -alpn h2,http/1.1` (OpenSSL 3.0).
const OPENSSL: &str = "160301014f0100014b0303b46cb6a9813ae01f5611f2b4f1d29b0fda8997cc2142069bdfe4931885b976192003b3f1ec5a\
c32f76f849f7764bc13c09c3df1f39eb8b9a5423a07b9fad7cb8d7003e130213031301c02cc030009fcca9cca8ccaac02bc02f009ec024c02800\
6bc023c0270067c00ac0140039c009c0130033009d009c003d003c0035002f00ff010000c400000015001300001053686f702e4578616d706c65\
2e6f7267000b000403000102000a00160014001d0017001e0019001801000101010201030104002300000010000e000c02683208687474702f31\
2e310016000000170000000d002a0028040305030603080708080809080a080b08040805080604010501060103030301030204020502060200\
2b0009080304030303020301002d00020101003300260024001d0020106f6b1d2dc05ba4f28c582fc5327d8df65636a92ecc2e763bb6b4aaf7\
888e21";

/// `openssl s_client -noservername -tls1_2 -cipher ECDHE-RSA-AES128-GCM-SHA256`.
const OPENSSL_WITHOUT_NAME: &str = "16030100830100007f03031c15b90b52ffbff0921e107938142c78f2824baa35c23501fc523548461d4c5e0000\
04c02f00ff01000052000b000403000102000a000c000a001d0017001e00190018002300000016000000170000000d002a00280403050306030807\
08080809080a080b080408050806040105010601030303010302040205020602";

fn hex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}

fn read(bytes: &[u8]) -> Result<Option<ClientHello>, HelloError> {
    HelloReader::default().read(bytes)
}

fn vector(length_bytes: usize, content: &[u8]) -> Vec<u8> {
    let length = u32::try_from(content.len()).unwrap().to_be_bytes();
    [&length[4 - length_bytes..], content].concat()
}

fn extension(kind: u16, content: &[u8]) -> Vec<u8> {
    [&kind.to_be_bytes()[..], &vector(2, content)].concat()
}

fn name_extension(name: &[u8]) -> Vec<u8> {
    let entry = [&[NAME_TYPE_HOST][..], &vector(2, name)].concat();
    extension(EXTENSION_SERVER_NAME, &vector(2, &entry))
}

/// The handshake message with these extensions.
fn message(extensions: &[u8]) -> Vec<u8> {
    let mut body = vec![3, 3];
    body.extend_from_slice(&[7; 32]);
    body.extend_from_slice(&[0, 0, 2, 0x13, 0x01, 1, 0]);
    body.extend_from_slice(&vector(2, extensions));
    [&[MESSAGE_CLIENT_HELLO][..], &vector(3, &body)].concat()
}

/// In records of at most `payload` bytes.
fn records(message: &[u8], payload: usize) -> Vec<u8> {
    let record = |fragment: &[u8]| [&[RECORD_HANDSHAKE, 3, 1][..], &vector(2, fragment)].concat();
    message.chunks(payload).flat_map(record).collect()
}

#[test]
fn openssl_says_hello() {
    let hello = ClientHello {
        server_name: Some("shop.example.org".to_owned()),
        alpn: vec![b"h2".to_vec(), b"http/1.1".to_vec()],
    };
    let bytes = hex(OPENSSL);
    assert_eq!(read(&bytes), Ok(Some(hello.clone())));
    // In records of every size, and byte for byte.
    for payload in 1..bytes.len() {
        assert_eq!(read(&records(&bytes[RECORD_HEADER_BYTES..], payload)), Ok(Some(hello.clone())));
    }
    let mut reader = HelloReader::default();
    for cut in 0..bytes.len() {
        assert_eq!(reader.read(&bytes[..cut]), Ok(None), "{cut}");
    }
    assert_eq!(reader.read(&bytes), Ok(Some(hello)));
    assert_eq!(read(&hex(OPENSSL_WITHOUT_NAME)), Ok(Some(ClientHello::default())));
}

#[test]
fn a_hello_may_have_no_extensions() {
    let mut body = vec![3, 1];
    body.extend_from_slice(&[7; 32]);
    body.extend_from_slice(&[0, 0, 2, 0x00, 0x2f, 1, 0]);
    let message = [&[MESSAGE_CLIENT_HELLO][..], &vector(3, &body)].concat();
    assert_eq!(read(&records(&message, 100)), Ok(Some(ClientHello::default())));
}

#[test]
fn other_protocols_are_told_apart_at_once() {
    for bytes in [&b"G"[..], b"GET / HTTP/1.1\r\n", b"SSH-2.0-OpenSSH_9.2\r\n", &[0x80, 0x2e, 1, 3, 1]] {
        assert_eq!(read(bytes), Err(HelloError::NotTls));
    }
    assert_eq!(read(&[22, 2]), Err(HelloError::NotTls));
    assert_eq!(read(&[22, 3, 1, 0, 4, 2]), Err(HelloError::NotClientHello));
    // An alert, or another protocol, in the middle of the hello.
    let message = message(&name_extension(b"a.example"));
    let mut bytes = records(&message, 20);
    bytes[25] = 21;
    assert_eq!(read(&bytes), Err(HelloError::Record));
}

#[test]
fn what_is_too_long_is_refused_as_soon_as_it_is_known() {
    assert_eq!(read(&[22, 3, 1, 0x40, 0x01]), Err(HelloError::Record), "a record of more than 16 KiB");
    assert_eq!(read(&[22, 3, 1, 0, 0]), Err(HelloError::Record), "a record of nothing");
    assert_eq!(read(&[22, 3, 1, 0x40, 0, 1, 0, 0x40, 0]), Err(HelloError::TooLong));
    assert_eq!(read(&[22, 3, 1, 0x40, 0, 1, 0xff, 0xff, 0xff]), Err(HelloError::TooLong));
    // Short enough in itself, but not in records of a byte each.
    let long = message(&extension(99, &[0; 8000]));
    assert!(matches!(read(&records(&long, 1 << 14)), Ok(Some(_))));
    assert_eq!(read(&records(&long, 1)), Err(HelloError::TooLong));
}

#[test]
fn malformed_hellos() {
    let bad_name = |name: &[u8]| read(&records(&message(&name_extension(name)), 1000));
    for name in [&b""[..], b".", b"a b", b"a\0b", b"\xc3\xa4.example", &[b'a'; 256]] {
        assert_eq!(bad_name(name), Err(HelloError::Malformed("server names")), "{name:?}");
    }
    let dotted = bad_name(b"A.Example.").unwrap().unwrap();
    assert_eq!(dotted.server_name.as_deref(), Some("a.example"));
    let twice = [name_extension(b"a.example"), name_extension(b"b.example")].concat();
    assert_eq!(read(&records(&message(&twice), 1000)), Err(HelloError::Malformed("extensions")));
    let entry = [&[NAME_TYPE_HOST][..], &vector(2, b"a.example")].concat();
    let two_names = extension(EXTENSION_SERVER_NAME, &vector(2, &[entry.clone(), entry].concat()));
    assert_eq!(read(&records(&message(&two_names), 1000)), Err(HelloError::Malformed("server names")));
    let empty_protocol = extension(EXTENSION_ALPN, &vector(2, &[0]));
    assert_eq!(read(&records(&message(&empty_protocol), 1000)), Err(HelloError::Malformed("protocol names")));
    assert_eq!(read(&records(&message(&[0, 0, 0]), 1000)), Err(HelloError::Malformed("extensions")));
    // A body that ends in the middle of its fields, and one that goes on behind its extensions.
    let cut = [&[MESSAGE_CLIENT_HELLO][..], &vector(3, &[3; 36])].concat();
    assert_eq!(read(&records(&cut, 1000)), Err(HelloError::Malformed("fields")));
    let mut longer = message(&name_extension(b"a.example"));
    longer.push(0);
    longer[3] += 1;
    assert_eq!(read(&records(&longer, 1000)), Err(HelloError::Malformed("extensions")));
}

proptest! {
    /// However the hello is cut into records and reads, it says the same; what follows it does not matter.
    #[test]
    fn cuts_do_not_matter(
        name in "[a-z0-9-]{1,20}(\\.[a-z0-9-]{1,20}){0,4}", payload in 1_usize..400,
        padding in 0_usize..2000, steps in proptest::collection::vec(1_usize..700, 0..40), tail in any::<Vec<u8>>(),
    ) {
        let extensions = [extension(21, &vec![0; padding]), name_extension(name.as_bytes())].concat();
        let mut bytes = records(&message(&extensions), payload);
        let length = bytes.len();
        bytes.extend_from_slice(&tail);
        let mut reader = HelloReader::default();
        let mut end = 0;
        for step in steps {
            end += step;
            if end >= length {
                break;
            }
            prop_assert_eq!(reader.read(&bytes[..end]), Ok(None));
        }
        let expected = ClientHello { server_name: Some(name), alpn: vec![] };
        prop_assert_eq!(reader.read(&bytes), Ok(Some(expected)));
    }

    /// Noise never panics and always comes to an end, the same one byte for byte.
    #[test]
    fn noise(noise in proptest::collection::vec(any::<u8>(), 0..600), at in 0_usize..340, payload in 1_usize..400) {
        let mut message = hex(OPENSSL)[RECORD_HEADER_BYTES..].to_vec();
        let at = at.min(message.len());
        message.splice(at.., noise);
        prop_assume!(!message.is_empty());
        let mut bytes = records(&message, payload);
        bytes.resize(bytes.len().max(HELLO_BYTES_MAX), 0);
        let whole = read(&bytes);
        prop_assert_ne!(&whole, &Ok(None));
        let mut reader = HelloReader::default();
        let stepwise = (0..=bytes.len()).map(|end| reader.read(&bytes[..end])).find(|result| *result != Ok(None));
        prop_assert_eq!(stepwise, Some(whole));
    }
}

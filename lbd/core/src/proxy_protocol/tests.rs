//! Headers from the specification and from HAProxy itself, and noise.

use proptest::prelude::*;

use super::*;

fn whole(bytes: &[u8]) -> Origin {
    match parse(bytes).unwrap() {
        Parsed::Complete { origin, length } => {
            assert_eq!(length, bytes.len());
            origin
        }
        Parsed::Incomplete => panic!("incomplete: {bytes:?}"),
    }
}

fn proxied(source: &str, destination: &str) -> Origin {
    Origin::Proxied { source: source.parse().unwrap(), destination: destination.parse().unwrap() }
}

fn hex(text: &str) -> Vec<u8> {
    let digits: String = text.split_whitespace().collect();
    (0..digits.len()).step_by(2).map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap()).collect()
}

/// `\r\n\r\n\0\r\nQUIT\n` and the rest given.
fn v2(rest: &str) -> Vec<u8> {
    hex(&format!("0d0a0d0a000d0a515549540a {rest}"))
}

#[test]
fn the_lines_of_the_specification() {
    // Its worst cases, with their lengths.
    let line = b"PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n";
    assert_eq!(line.len(), 56);
    assert_eq!(whole(line), proxied("255.255.255.255:65535", "255.255.255.255:65535"));
    let line = b"PROXY TCP6 ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 65535 65535\r\n";
    assert_eq!(line.len(), 104);
    let all = "[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535";
    assert_eq!(whole(line), proxied(all, all));
    assert_eq!(whole(b"PROXY UNKNOWN\r\n"), Origin::Local);
    let line = b"PROXY UNKNOWN ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 65535 65535\r\n";
    assert_eq!(line.len(), V1_BYTES_MAX);
    assert_eq!(whole(line), Origin::Local);
    // Its example, with the request behind it.
    let text = b"PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\r\nGET / HTTP/1.1\r\n";
    let origin = proxied("192.168.0.1:56324", "192.168.0.11:443");
    assert_eq!(parse(text), Ok(Parsed::Complete { origin, length: 47 }));
}

#[test]
fn lines_that_are_refused() {
    let refused: [(&[u8], ProxyError); 18] = [
        (b"GET / HTTP/1.1\r\n", ProxyError::NoHeader),
        (b"PROXY\tTCP4 1.2.3.4 5.6.7.8 1 2\r\n", ProxyError::NoHeader),
        (b"proxy TCP4 1.2.3.4 5.6.7.8 1 2\r\n", ProxyError::NoHeader),
        (b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\n", ProxyError::Line("line end")),
        (b"PROXY TCP4 1.2.3.4 5.6.7.8 1\r\n", ProxyError::Line("fields")),
        (b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2 3\r\n", ProxyError::Line("fields")),
        (b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2 \r\n", ProxyError::Line("fields")),
        (b"PROXY TCP4  1.2.3.4 5.6.7.8 1 2\r\n", ProxyError::Line("fields")),
        (b"PROXY TCP4 1.2.3.4 5.6.7.8 01 2\r\n", ProxyError::Line("ports")),
        (b"PROXY TCP4 1.2.3.4 5.6.7.8 +1 2\r\n", ProxyError::Line("ports")),
        (b"PROXY TCP4 1.2.3.4 5.6.7.8 65536 2\r\n", ProxyError::Line("ports")),
        (b"PROXY TCP4 1.2.3.04 5.6.7.8 1 2\r\n", ProxyError::Line("addresses")),
        (b"PROXY TCP4 ::1 ::1 1 2\r\n", ProxyError::Line("addresses")),
        (b"PROXY TCP6 1.2.3.4 5.6.7.8 1 2\r\n", ProxyError::Line("addresses")),
        (b"PROXY TCP6 fe80::1%eth0 ::1 1 2\r\n", ProxyError::Line("addresses")),
        (b"PROXY UDP4 1.2.3.4 5.6.7.8 1 2\r\n", ProxyError::Line("protocol")),
        (b"PROXY UNKNOWNS 1.2.3.4 5.6.7.8 1 2\r\n", ProxyError::Line("protocol")),
        (b"PROXY TCP4 1.2.3.\xff 5.6.7.8 1 2\r\n", ProxyError::Line("characters")),
    ];
    for (line, error) in refused {
        assert_eq!(parse(line), Err(error), "{}", String::from_utf8_lossy(line));
    }
    let mut endless = b"PROXY UNKNOWN ".to_vec();
    endless.resize(V1_BYTES_MAX - 1, b'x');
    assert_eq!(parse(&endless), Ok(Parsed::Incomplete));
    endless.push(b'x');
    assert_eq!(parse(&endless), Err(ProxyError::LineTooLong));
    endless.extend_from_slice(b"\r\n");
    assert_eq!(parse(&endless), Err(ProxyError::LineTooLong), "a line end that comes too late");
}

/// Laid out by hand after section 2.2 of the specification.
#[test]
fn binary_headers() {
    let four = v2("21 11 000c  c0000201 cb00710a  c822 01bb");
    assert_eq!(whole(&four), proxied("192.0.2.1:51234", "203.0.113.10:443"));
    let six = v2("21 21 0024  20010db8000000000000000000000001 20010db8000000000000000000000010  0001 ffff");
    assert_eq!(whole(&six), proxied("[2001:db8::1]:1", "[2001:db8::10]:65535"));
    // LOCAL: the block is discarded, whatever the family and the content are.
    assert_eq!(whole(&v2("20 00 0000")), Origin::Local);
    assert_eq!(whole(&v2("20 ee 0003 ffffff")), Origin::Local);
    // PROXY of a kind that has no TCP addresses.
    assert_eq!(whole(&v2("21 00 0004 deadbeef")), Origin::Local);
    assert_eq!(whole(&v2("21 12 000c c0000201 cb00710a c822 01bb")), Origin::Local);
    assert_eq!(whole(&v2(&format!("21 31 00d8 {}", "00".repeat(216)))), Origin::Local);
}

#[test]
fn extensions_are_skipped_and_their_checksum_is_checked() {
    // ALPN "h2", NOOP, then a CRC-32C calculated by a table-driven implementation of Python's.
    let with = |checksum: &str| {
        v2(&format!(
            "21 11 0020  c0000201 cb00710a c822 01bb  01 0002 6832  04 0005 0000000000  03 0004 {checksum}"
        ))
    };
    let right = with("db94b963");
    let length = right.len();
    assert_eq!(whole(&right), proxied("192.0.2.1:51234", "203.0.113.10:443"));
    for at in [16, 28, 31, length - 1] {
        let mut damaged = right.clone();
        damaged[at] ^= 1;
        assert!(parse(&damaged).is_err(), "byte {at}");
    }
    assert_eq!(parse(&with("00000000")), Err(ProxyError::Checksum));
}

/// RFC 3720 (iSCSI), B.4.
#[test]
fn the_checksum_is_castagnolis() {
    let crc = |bytes: &[u8]| !v2::crc32c(!0, bytes);
    assert_eq!(crc(&[0; 32]), 0x8a91_36aa);
    assert_eq!(crc(&[0xff; 32]), 0x62a8_ab43);
    assert_eq!(crc(&std::array::from_fn::<u8, 32, _>(|i| u8::try_from(i).unwrap())), 0x46dd_794e);
    assert_eq!(crc(b"123456789"), 0xe306_9283);
}

#[test]
fn binary_headers_that_are_refused() {
    let refused = [
        ("31", ProxyError::Unknown("version")),
        ("01", ProxyError::Unknown("version")),
        ("22", ProxyError::Unknown("command")),
        ("21 13", ProxyError::Unknown("family")),
        ("21 41", ProxyError::Unknown("family")),
        ("21 10", ProxyError::Unknown("family")),
        ("21 11 0ff1", ProxyError::TooLong(4097)),
        ("20 00 ffff", ProxyError::TooLong(65551)),
        ("21 11 000b", ProxyError::TooShort),
        ("21 21 0023", ProxyError::TooShort),
        ("21 11 000e c0000201 cb00710a c822 01bb 0100", ProxyError::Extensions),
        ("21 11 0010 c0000201 cb00710a c822 01bb 01000200", ProxyError::Extensions),
        ("21 11 0012 c0000201 cb00710a c822 01bb 030003000000", ProxyError::Extensions),
    ];
    for (rest, error) in refused {
        assert_eq!(parse(&v2(rest)), Err(error), "{rest}");
    }
    // The longest one, all of it one extension.
    let mut longest = v2("21 11 0ff0 c0000201 cb00710a c822 01bb ea 0fe1");
    longest.resize(V2_BYTES_MAX, 7);
    assert_eq!(whole(&longest), proxied("192.0.2.1:51234", "203.0.113.10:443"));
}

#[test]
fn headers_of_ones_own() {
    for version in [Version::V1, Version::V2] {
        let mut out = Vec::new();
        emit_local(version, &mut out);
        assert_eq!(whole(&out), Origin::Local);
    }
}

#[test]
fn what_is_emitted() {
    let header = |version, source: &str, destination: &str| {
        let mut out = Vec::new();
        emit(version, source.parse().unwrap(), destination.parse().unwrap(), &mut out);
        out
    };
    let line = header(Version::V1, "192.168.0.1:56324", "192.168.0.11:443");
    assert_eq!(line, b"PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\r\n");
    let line = header(Version::V1, "[2001:db8::1]:1", "[::1]:2");
    assert_eq!(line, b"PROXY TCP6 2001:db8::1 ::1 1 2\r\n");
    let binary = header(Version::V2, "192.0.2.1:51234", "203.0.113.10:443");
    assert_eq!(binary, v2("21 11 000c  c0000201 cb00710a  c822 01bb"));
    let binary = header(Version::V2, "[2001:db8::1]:1", "[2001:db8::10]:65535");
    assert_eq!(
        binary,
        v2("21 21 0024  20010db8000000000000000000000001 20010db8000000000000000000000010  0001 ffff")
    );
    let mixed = header(Version::V1, "192.0.2.1:1", "[::1]:2");
    assert_eq!(whole(&mixed), proxied("[::ffff:192.0.2.1]:1", "[::1]:2"));
}

fn address() -> impl Strategy<Value = (SocketAddr, SocketAddr)> {
    let four = (any::<[u8; 4]>(), any::<u16>(), any::<[u8; 4]>(), any::<u16>());
    let six = (any::<[u8; 16]>(), any::<u16>(), any::<[u8; 16]>(), any::<u16>());
    prop_oneof![
        four.prop_map(|(a, p, b, q)| (SocketAddr::from((a, p)), SocketAddr::from((b, q)))),
        six.prop_map(|(a, p, b, q)| (SocketAddr::from((a, p)), SocketAddr::from((b, q)))),
    ]
}

proptest! {
    /// What is emitted is read back, however it is cut, and whatever follows it.
    #[test]
    fn round_trip((source, destination) in address(), binary in any::<bool>(), tail in any::<Vec<u8>>()) {
        let version = if binary { Version::V2 } else { Version::V1 };
        let mut bytes = Vec::new();
        emit(version, source, destination, &mut bytes);
        let length = bytes.len();
        prop_assert!(length <= EMITTED_BYTES_MAX);
        bytes.extend_from_slice(&tail);
        for cut in 0..length {
            prop_assert_eq!(parse(&bytes[..cut]), Ok(Parsed::Incomplete));
        }
        let origin = Origin::Proxied { source, destination };
        prop_assert_eq!(parse(&bytes), Ok(Parsed::Complete { origin, length }));
    }

    /// Noise behind a signature: never a panic, an answer that more bytes do not take back, and an end.
    #[test]
    fn noise(binary in any::<bool>(), noise in proptest::collection::vec(any::<u8>(), 0..300), cut in 0_usize..300) {
        let mut bytes = if binary { v2::SIGNATURE.to_vec() } else { v1::SIGNATURE.to_vec() };
        bytes.extend_from_slice(&noise);
        let early = parse(&bytes[..cut.min(bytes.len())]);
        if early != Ok(Parsed::Incomplete) {
            prop_assert_eq!(parse(&bytes), early);
        }
        bytes.resize(V2_BYTES_MAX, 0);
        prop_assert_ne!(parse(&bytes), Ok(Parsed::Incomplete));
    }
}

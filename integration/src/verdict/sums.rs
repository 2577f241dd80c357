//! Checksums, always over everything: nothing here updates one.

use std::net::IpAddr;

/// The ones' complement sum of 16-bit words, folded. Parts of an odd length are padded each.
#[must_use]
pub fn sum(parts: &[&[u8]]) -> u16 {
    let mut total: u64 = 0;
    for part in parts {
        for pair in part.chunks(2) {
            total += u64::from(pair[0]) << 8 | u64::from(pair.get(1).copied().unwrap_or(0));
        }
    }
    while total >> 16 != 0 {
        total = (total & 0xffff) + (total >> 16);
    }
    u16::try_from(total).unwrap_or(0xffff)
}

/// The checksum of parts whose checksum field is zero.
#[must_use]
pub fn checksum(parts: &[&[u8]]) -> u16 {
    !sum(parts)
}

/// The pseudo header of TCP, UDP and ICMPv6.
#[must_use]
pub fn pseudo(source: IpAddr, destination: IpAddr, protocol: u8, length: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    for address in [source, destination] {
        match address {
            IpAddr::V4(address) => bytes.extend_from_slice(&address.octets()),
            IpAddr::V6(address) => bytes.extend_from_slice(&address.octets()),
        }
    }
    bytes.extend_from_slice(&u32::try_from(length).unwrap_or(0).to_be_bytes());
    bytes.extend_from_slice(&[0, 0, 0, protocol]);
    bytes
}

/// The checksum of a segment whose field is zero, as computed: 0 is possible.
#[must_use]
pub fn transport(source: IpAddr, destination: IpAddr, protocol: u8, segment: &[u8]) -> u16 {
    checksum(&[&pseudo(source, destination, protocol, segment.len()), segment])
}

/// The checksum that has the same error as before: `stored` belonged to words that summed up to `before`, those now sum up to
/// `after` (both without the field). Zero is written as the sum comes out.
#[must_use]
pub fn carried_over(stored: u16, before: u16, after: u16) -> u16 {
    // RFC 1624, equation 3: HC' = ~(~HC + ~m + m'), with m and m' the whole of what is summed.
    let words = [(!stored).to_be_bytes(), (!before).to_be_bytes(), after.to_be_bytes()];
    !sum(&[&words[0], &words[1], &words[2]])
}

/// Whether two checksums say the same: 0 and 0xffff are both zero in ones' complement.
#[must_use]
pub const fn same(one: u16, other: u16) -> bool {
    one == other || (one == 0 && other == 0xffff) || (one == 0xffff && other == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 1071, section 3: the words 0001 f203 f4f5 f6f7 sum up to ddf2.
    #[test]
    fn sums_as_the_rfc_s_example() {
        assert_eq!(sum(&[&[0, 1, 0xf2, 3, 0xf4, 0xf5, 0xf6, 0xf7]]), 0xddf2);
        assert_eq!(sum(&[&[0, 1, 0xf2, 3], &[0xf4, 0xf5, 0xf6, 0xf7]]), 0xddf2);
    }

    /// RFC 1624, section 4: the header's checksum is dd2f, and a field goes from 5555 to 3285.
    #[test]
    fn carries_over_as_the_rfc_s_example() {
        assert!(same(carried_over(0xdd2f, 0x5555, 0x3285), 0x0000));
    }

    /// 45 00 00 73 00 00 40 00 40 11 (b861) c0 a8 00 01 c0 a8 00 c7, summed by hand: 2479c, so 479e, so b861.
    #[test]
    fn an_ipv4_header_by_hand() {
        let header =
            [0x45, 0, 0, 0x73, 0, 0, 0x40, 0, 0x40, 0x11, 0, 0, 0xc0, 0xa8, 0, 1, 0xc0, 0xa8, 0, 0xc7];
        assert_eq!(checksum(&[&header]), 0xb861);
    }

    /// UDP 10.0.0.1:1 to 10.0.0.2:2 with nothing inside: 0a00 + 1 + 0a00 + 2 + 8 + 11 + 1 + 2 + 8 = 1427, so ebd8.
    #[test]
    fn a_datagram_by_hand() {
        let (source, destination) = ("10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap());
        assert_eq!(transport(source, destination, 17, &[0, 1, 0, 2, 0, 8, 0, 0]), 0xebd8);
    }
}

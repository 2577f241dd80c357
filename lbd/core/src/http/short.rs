//! Numbers and addresses as text, without the library's formatting and without memory of their own: both show in what a request costs.

use std::io::Write as _;
use std::net::IpAddr;

/// As long as the longest: all of IPv6's eight groups, with colons between them.
const BYTES_MAX: usize = 39;

/// A text of a few bytes.
#[derive(Clone, Copy, Debug)]
pub struct Short {
    bytes: [u8; BYTES_MAX],
    length: usize,
}

impl Short {
    const EMPTY: Self = Self { bytes: [0; BYTES_MAX], length: 0 };

    /// A number in decimal, without leading zeros.
    #[must_use]
    pub fn decimal(number: u64) -> Self {
        let mut text = Self::EMPTY;
        text.push_number::<10>(number);
        text
    }

    /// The same in hexadecimal, in small letters.
    #[must_use]
    pub fn hexadecimal(number: u64) -> Self {
        let mut text = Self::EMPTY;
        text.push_number::<16>(number);
        text
    }

    /// An address as it is written everywhere: of IPv6 in the form of RFC 5952, without brackets.
    #[must_use]
    pub fn address(address: IpAddr) -> Self {
        let mut text = Self::EMPTY;
        match address {
            IpAddr::V4(address) => {
                let [first, rest @ ..] = address.octets();
                text.push_number::<10>(first.into());
                for octet in rest {
                    text.push(b'.');
                    text.push_number::<10>(octet.into());
                }
            }
            IpAddr::V6(address) => {
                let mut room = &mut text.bytes[..];
                let written = write!(room, "{address}");
                let left = room.len();
                debug_assert!(written.is_ok(), "{address} is longer than any address");
                text.length = BYTES_MAX - left;
            }
        }
        text
    }

    /// The text.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }

    fn push(&mut self, byte: u8) {
        self.bytes[self.length] = byte;
        self.length += 1;
    }

    /// At most 20 digits behind an empty text, or three of a byte behind three others.
    fn push_number<const BASE: u64>(&mut self, number: u64) {
        let (begin, mut left) = (self.length, number);
        loop {
            // Below the base, which is 10 or 16.
            let digit = usize::try_from(left % BASE).unwrap_or_default();
            self.push(b"0123456789abcdef"[digit]);
            left /= BASE;
            if left == 0 {
                break;
            }
        }
        self.bytes[begin..self.length].reverse();
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use proptest::prelude::*;

    use super::*;

    fn text(short: Short) -> String {
        String::from_utf8(short.as_bytes().to_vec()).unwrap()
    }

    #[test]
    fn the_longest_have_room() {
        assert_eq!(text(Short::decimal(u64::MAX)), "18446744073709551615");
        assert_eq!(text(Short::hexadecimal(u64::MAX)), "ffffffffffffffff");
        assert_eq!((text(Short::decimal(0)), text(Short::hexadecimal(0))), ("0".to_owned(), "0".to_owned()));
        let longest = Ipv6Addr::from_bits(u128::MAX);
        assert_eq!(text(Short::address(longest.into())), "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff");
        assert_eq!(text(Short::address(Ipv4Addr::new(255, 255, 255, 255).into())), "255.255.255.255");
    }

    proptest! {
        #[test]
        fn it_is_what_the_library_writes(
            number in any::<u64>(),
            four in any::<u32>(),
            six in any::<u128>(),
            shift in 0_u32..128,
        ) {
            let number = number >> (shift % 64);
            prop_assert_eq!(text(Short::decimal(number)), number.to_string());
            prop_assert_eq!(text(Short::hexadecimal(number)), format!("{number:x}"));
            let addresses = [
                IpAddr::V4(Ipv4Addr::from_bits(four)),
                IpAddr::V6(Ipv6Addr::from_bits(six)),
                IpAddr::V6(Ipv6Addr::from_bits(six >> shift)),
                IpAddr::V6(Ipv4Addr::from_bits(four).to_ipv6_mapped()),
            ];
            for address in addresses {
                prop_assert_eq!(text(Short::address(address)), address.to_string());
            }
        }
    }
}

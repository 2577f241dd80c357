//! How large a packet may be on the way through a tunnel: where a link within it takes less than the first one, the router before that link says
//! so to the node, which made the outer packet, and not to the client, whose packet it is about. From then on the program answers what is too
//! big, and its client hears of it.
//!
//! Who may send such a word is known no better than with any tunnel (RFC 2003, 3.1, RFC 8201): it is to quote a packet of this node's to a
//! target, and lowers nothing below what every host has to take. What says less than there is on any way is refused: clients of IPv6 send
//! nothing smaller whatever they are told, so that one forged word would keep all that they send from a target. Old routers say no number; what
//! is guessed for them is never less than that.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use common::time::{Duration, Instant};

use super::abi::{Target, WAY_GRE, WAY_GUE, WAY_IPIP};

/// After this time a way is tried again with larger packets. RFC 1191, 6.3: "the recommended setting for this timer is twice its minimum
/// value (10 minutes)"; RFC 8201, 5.3, has the same.
pub const LEARNED_FOR: Duration = Duration::from_secs(600);

/// What every host of IPv4 has to take: RFC 791, 3.1. Nothing is lowered below it.
const LEAST_V4: u32 = 576;

/// What every link takes of IPv4 (RFC 791, 3.2) and of IPv6 (RFC 8200, 5).
const LINK_V4: u32 = 68;
const LINK_V6: u32 = 1280;

/// What the way to the far end of a tunnel takes at least, in bytes with the tunnel's own headers, which are `overhead` of them: what each link
/// does, and where IPv6 packets go through the tunnel, what those are guaranteed.
#[must_use]
pub const fn least(far: IpAddr, overhead: u32, carries_ipv6: bool) -> u32 {
    match (far.is_ipv6(), carries_ipv6) {
        (_, true) => LINK_V6 + overhead,
        (true, false) => LINK_V6,
        (false, false) => LINK_V4,
    }
}

/// RFC 1191, 7.1: what links take, for routers that do not say it.
const PLATEAUS: [u32; 8] = [32_000, 17_914, 8166, 4352, 2002, 1492, 1006, 508];

const ICMP: u8 = 1;
const UNREACHABLE: [u8; 2] = [3, 4];
const TOO_BIG: u8 = 2;
const IPIP: u8 = 4;
const UDP: u8 = 17;
const IPV6: u8 = 41;
const GRE: u8 = 47;

/// A router's word on an outer packet of this node's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooBig {
    /// Who has sent the packet.
    pub near: IpAddr,
    /// Where it was to go.
    pub far: IpAddr,
    /// What was in it: IP's number.
    pub protocol: u8,
    /// The largest packet that the next link takes, in bytes.
    pub mtu: u32,
    /// Whether the router has not said that, so that it is a guess of this node's.
    pub guessed: bool,
}

impl TooBig {
    /// That of an IPv4 packet with an ICMP message (RFC 792, "fragmentation needed and DF set", with the MTU of RFC 1191); none if it is
    /// something else.
    #[must_use]
    pub fn of_ipv4(packet: &[u8]) -> Option<Self> {
        let header = ipv4_header(packet)?;
        let message = packet.get(header..)?;
        if packet[9] != ICMP || !message.starts_with(&UNREACHABLE) || !sums_up(message) {
            return None;
        }
        let quoted = message.get(8..)?;
        ipv4_header(quoted)?;
        let number = |at: usize| u32::from(u16::from_be_bytes([quoted[at], quoted[at + 1]]));
        // A later fragment: the program makes none.
        if number(6) & 0x1fff != 0 {
            return None;
        }
        let address = |at: usize| Ipv4Addr::new(quoted[at], quoted[at + 1], quoted[at + 2], quoted[at + 3]);
        let said = u32::from(u16::from_be_bytes([message[6], message[7]]));
        let guessed = || PLATEAUS.into_iter().find(|plateau| *plateau < number(2)).unwrap_or(LEAST_V4);
        Some(Self {
            near: address(12).into(),
            far: address(16).into(),
            protocol: quoted[9],
            mtu: if said == 0 { guessed() } else { said },
            guessed: said == 0,
        })
    }

    /// That of an ICMPv6 message (RFC 4443, 3.2, "packet too big"), whose checksum the kernel has looked at; none if it is something else.
    #[must_use]
    pub fn of_ipv6(message: &[u8]) -> Option<Self> {
        let (head, quoted) = message.split_first_chunk::<8>()?;
        let header: &[u8; 40] = quoted.first_chunk()?;
        if head[0] != TOO_BIG || header[0] >> 4 != 6 {
            return None;
        }
        let address =
            |at: usize| -> Option<Ipv6Addr> { header[at..].first_chunk::<16>().map(|it| (*it).into()) };
        Some(Self {
            near: address(8)?.into(),
            far: address(24)?.into(),
            protocol: header[6],
            mtu: u32::from_be_bytes([head[4], head[5], head[6], head[7]]),
            guessed: false,
        })
    }

    /// Whether it is about a packet to this target.
    fn is_about(&self, target: &Target) -> bool {
        let fits = match target.way {
            WAY_IPIP => matches!(self.protocol, IPIP | IPV6),
            WAY_GRE => self.protocol == GRE,
            WAY_GUE => self.protocol == UDP,
            _ => false,
        };
        fits && target.address.ip() == self.far && target.source.ip() == self.near
    }
}

/// The length of an IPv4 header, of which at least the fixed part is there.
fn ipv4_header(packet: &[u8]) -> Option<usize> {
    let first = *packet.first().filter(|_| packet.len() >= 20)?;
    (first >> 4 == 4 && first & 15 >= 5).then_some(usize::from(first & 15) * 4)
}

/// Whether the checksum of what has one is right (RFC 1071).
fn sums_up(bytes: &[u8]) -> bool {
    let word = |pair: &[u8]| u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]));
    let sum = bytes.chunks(2).map(word).fold(0, |sum, word| {
        let sum = sum + word;
        (sum & 0xffff) + (sum >> 16)
    });
    sum == 0xffff
}

/// What has come of a router's word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Worth {
    /// Nothing: it is about no target, or nothing new.
    Nothing,
    /// A way takes less than was known.
    News,
    /// It was refused: there is no such way.
    Refused,
}

/// What is known of ways through tunnels, by their far ends: of no more than there are targets.
#[derive(Clone, Debug, Default)]
pub struct PathMtus {
    learned: BTreeMap<IpAddr, Learned>,
}

#[derive(Clone, Copy, Debug)]
struct Learned {
    mtu: u32,
    until: Instant,
}

impl PathMtus {
    /// Takes a router's word, if it is about a packet to one of these targets, each with the [`least`] that its way takes.
    pub fn learn<'a>(
        &mut self,
        told: &TooBig,
        targets: impl IntoIterator<Item = (&'a Target, u32)>,
        now: Instant,
    ) -> Worth {
        let about = targets.into_iter().filter(|(target, _)| told.is_about(target));
        let Some(least) = about.map(|(_, least)| least).min() else { return Worth::Nothing };
        // RFC 8201, 4: "If a node receives a Packet Too Big message reporting a next-hop MTU that is less than the IPv6 minimum link MTU, it must
        // discard it. A node must not reduce its estimate of the Path MTU below the IPv6 minimum link MTU on receipt of a Packet Too Big message."
        if told.mtu < least && !told.guessed {
            return Worth::Refused;
        }
        // A guess that is too low says nothing of the router, which has only said that the packet was too big: then the least fits.
        let mtu = told.mtu.max(least).max(LEAST_V4);
        let known = self.learned.get(&told.far).filter(|known| known.until > now);
        // RFC 8201, 4: "A node must not increase its estimate of the Path MTU in response to the contents of a Packet Too Big message."
        if known.is_some_and(|known| known.mtu < mtu) {
            return Worth::Nothing;
        }
        let is_news = known.is_none_or(|known| known.mtu != mtu);
        self.learned.insert(told.far, Learned { mtu, until: now + LEARNED_FOR });
        if is_news { Worth::News } else { Worth::Nothing }
    }

    /// What holds now: the largest packet on the way to each far end, in bytes.
    pub fn current(&mut self, now: Instant) -> BTreeMap<IpAddr, u32> {
        self.learned.retain(|_, known| known.until > now);
        self.learned.iter().map(|(far, known)| (*far, known.mtu)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// From 198.51.100.1 to 10.0.0.1, about what 10.0.0.1 had sent to 10.9.0.7 by IP in IP: 1,400 bytes fit. Summed up by hand: 0304 + 0578 +
    /// 4500 + 05dc + 4000 + 4004 + 0a00 + 0001 + 0a09 + 0007 + 4500 + 05c8 = 13235; with its carry 3236; inverted cdc9.
    const MESSAGE: [u8; 52] = [
        0x45, 0, 0, 52, 0, 0, 0, 0, 64, 1, 0, 0, 198, 51, 100, 1, 10, 0, 0, 1, // IP
        3, 4, 0xcd, 0xc9, 0, 0, 0x05, 0x78, // ICMP
        0x45, 0, 0x05, 0xdc, 0, 0, 0x40, 0, 0x40, 4, 0, 0, 10, 0, 0, 1, 10, 9, 0, 7, // quoted
        0x45, 0, 0x05, 0xc8, // of the packet in it
    ];

    fn now(seconds: u64) -> Instant {
        Instant::ZERO + Duration::from_secs(seconds)
    }

    fn target(way: u8, near: &str, far: &str) -> Target {
        let address = |text: &str| text.parse::<IpAddr>().unwrap().into();
        Target { way, address: address(far), source: address(near), ..Target::default() }
    }

    #[test]
    fn fragmentation_needed_names_the_ends_and_what_fits() {
        let told = TooBig::of_ipv4(&MESSAGE).unwrap();
        let ip = |text: &str| -> IpAddr { text.parse().unwrap() };
        assert_eq!(
            told,
            TooBig { near: ip("10.0.0.1"), far: ip("10.9.0.7"), protocol: 4, mtu: 1400, guessed: false }
        );
        // Nothing of this is read beyond its end, and what is not whole says nothing.
        for length in 0..MESSAGE.len() {
            assert_eq!(TooBig::of_ipv4(&MESSAGE[..length]), None, "{length}");
        }
        // Another version, protocol, type, code, sum; a later fragment.
        for (at, value) in [(0, 0x65), (9, 17), (20, 11), (21, 1), (22, 0), (28, 0x65), (35, 1)] {
            let mut message = MESSAGE;
            message[at] = value;
            assert_eq!(TooBig::of_ipv4(&message), None, "{at}");
        }
    }

    #[test]
    fn what_an_old_router_does_not_say_is_guessed() {
        let mut message = MESSAGE;
        // The sum is larger by what the MTU is missing.
        (message[22], message[23]) = (0xd3, 0x41);
        (message[26], message[27]) = (0, 0);
        let told = TooBig::of_ipv4(&message).unwrap();
        assert_eq!((told.mtu, told.guessed), (1492, true));
    }

    /// Quoted are 1,500 bytes in the message above, and 1,320 here: the next plateau is below what IPv6 is guaranteed.
    #[test]
    fn a_guess_is_never_refused_and_never_below_what_there_is_on_any_way() {
        let target = target(WAY_IPIP, "10.0.0.1", "10.9.0.7");
        let mut message = MESSAGE;
        // The sum is larger by what the MTU and the quoted packet's length are missing: cdc9 + 0578 + 00b4.
        (message[22], message[23]) = (0xd3, 0xf5);
        (message[26], message[27]) = (0, 0);
        (message[30], message[31]) = (0x05, 0x28);
        let told = TooBig::of_ipv4(&message).unwrap();
        assert_eq!((told.mtu, told.guessed), (1006, true));
        for (least, known) in [(1300, 1300), (LINK_V4, 1006)] {
            let mut paths = PathMtus::default();
            assert_eq!(paths.learn(&told, [(&target, least)], now(1)), Worth::News);
            assert_eq!(paths.current(now(1)).get(&told.far), Some(&known));
            // What a router has said is another matter.
            let said = TooBig { guessed: false, ..told };
            let worth = PathMtus::default().learn(&said, [(&target, least)], now(1));
            assert_eq!(worth, if least > 1006 { Worth::Refused } else { Worth::News });
        }
    }

    #[test]
    fn packet_too_big_does_the_same() {
        let mut message = vec![2, 0, 0, 0, 0, 0, 0x05, 0x14];
        message.extend([0x60, 0, 0, 0, 0x05, 0xb4, 47, 64]);
        message.extend("2001:db8::1".parse::<Ipv6Addr>().unwrap().octets());
        message.extend("2001:db8::7".parse::<Ipv6Addr>().unwrap().octets());
        let told = TooBig::of_ipv6(&message).unwrap();
        assert_eq!(
            (told.near.to_string(), told.far.to_string()),
            ("2001:db8::1".into(), "2001:db8::7".into())
        );
        assert_eq!((told.protocol, told.mtu), (47, 1300));
        for length in 0..message.len() {
            assert_eq!(TooBig::of_ipv6(&message[..length]), None, "{length}");
        }
        for (at, value) in [(0, 1), (8, 0x40)] {
            let mut message = message.clone();
            message[at] = value;
            assert_eq!(TooBig::of_ipv6(&message), None, "{at}");
        }
    }

    #[test]
    fn only_words_about_packets_of_this_nodes_count() {
        let told = TooBig::of_ipv4(&MESSAGE).unwrap();
        let others = [
            target(WAY_GRE, "10.0.0.1", "10.9.0.7"),
            target(WAY_GUE, "10.0.0.1", "10.9.0.7"),
            target(0, "10.0.0.1", "10.9.0.7"),
            target(WAY_IPIP, "10.0.0.2", "10.9.0.7"),
            target(WAY_IPIP, "10.0.0.1", "10.9.0.8"),
        ];
        let mut paths = PathMtus::default();
        // Nor is what they say refused, however little it is.
        for mtu in [1400, 3] {
            let others = others.iter().map(|other| (other, LINK_V4));
            assert_eq!(paths.learn(&TooBig { mtu, ..told }, others, now(1)), Worth::Nothing);
        }
        assert!(paths.current(now(1)).is_empty());
        let worth = |way: u8, protocol: u8| {
            let fitting = target(way, "10.0.0.1", "10.9.0.7");
            PathMtus::default().learn(&TooBig { protocol, ..told }, [(&fitting, LINK_V4)], now(1))
        };
        for (way, protocol) in [(WAY_IPIP, IPIP), (WAY_IPIP, IPV6), (WAY_GRE, GRE), (WAY_GUE, UDP)] {
            assert_eq!(worth(way, protocol), Worth::News);
        }
    }

    #[test]
    fn less_than_ipv6_guarantees_is_refused() {
        let [near4, far4, near6, far6] = ["10.0.0.1", "10.9.0.7", "2001:db8::1", "2001:db8::7"];
        // Headers of IPv4 or IPv6, and with GRE four bytes more: what is left for IPv6 is 1,280 bytes at least, and for IPv4 what each link takes
        // of the outer packet.
        for (way, protocol, near, far, overhead, carries_ipv6, least_wanted) in [
            (WAY_IPIP, IPIP, near4, far4, 20, false, 68),
            (WAY_IPIP, IPV6, near4, far4, 20, true, 1300),
            (WAY_GRE, GRE, near4, far4, 24, true, 1304),
            (WAY_IPIP, IPIP, near6, far6, 40, false, 1280),
            (WAY_IPIP, IPV6, near6, far6, 40, true, 1320),
            (WAY_GRE, GRE, near6, far6, 44, true, 1324),
        ] {
            let target = target(way, near, far);
            let [near, far]: [IpAddr; 2] = [near, far].map(|text| text.parse().unwrap());
            let least = least(far, overhead, carries_ipv6);
            assert_eq!(least, least_wanted, "{way} {far} {carries_ipv6}");
            let mut paths = PathMtus::default();
            let mut learn = |mtu: u32| {
                paths.learn(&TooBig { near, far, protocol, mtu, guessed: false }, [(&target, least)], now(1))
            };
            assert_eq!([1400, least - 1, 0].map(&mut learn), [Worth::News, Worth::Refused, Worth::Refused]);
            assert_eq!(learn(least), Worth::News);
            let known = paths.current(now(1))[&far];
            assert_eq!(known, least.max(576), "{way} {far} {carries_ipv6}");
        }
    }

    /// Targets at the same far end, of which IPv6 goes to one: what the others' way takes is heard.
    #[test]
    fn what_only_some_of_a_far_ends_targets_cannot_have_is_heard() {
        let told = TooBig { mtu: 900, ..TooBig::of_ipv4(&MESSAGE).unwrap() };
        let target = target(WAY_IPIP, "10.0.0.1", "10.9.0.7");
        let mut paths = PathMtus::default();
        assert_eq!(paths.learn(&told, [(&target, 1300), (&target, LINK_V4)], now(1)), Worth::News);
        assert_eq!(paths.current(now(1)).get(&told.far), Some(&900));
    }

    #[test]
    fn a_way_becomes_narrower_and_is_tried_again() {
        let told = TooBig::of_ipv4(&MESSAGE).unwrap();
        let target = target(WAY_IPIP, "10.0.0.1", "10.9.0.7");
        let mut paths = PathMtus::default();
        let mut learn = |mtu: u32, at: u64| {
            let worth = paths.learn(&TooBig { mtu, ..told }, [(&target, LINK_V4)], now(at));
            (worth == Worth::News, paths.current(now(at)).get(&told.far).copied())
        };
        assert_eq!(learn(1400, 0), (true, Some(1400)));
        assert_eq!(learn(1450, 1), (false, Some(1400)), "nobody makes it wider");
        assert_eq!(learn(1400, 300), (false, Some(1400)));
        assert_eq!(learn(1300, 301), (true, Some(1300)));
        assert_eq!(learn(3, 302), (false, Some(1300)), "there is no such link");
        assert_eq!(learn(68, 302), (true, Some(576)), "what every host takes");
        let after = LEARNED_FOR.as_secs() + 303;
        assert_eq!(learn(1400, after), (true, Some(1400)), "the links may be others by now");
        assert_eq!(paths.current(now(after) + LEARNED_FOR), BTreeMap::new());
    }
}

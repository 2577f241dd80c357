//! The source ports of `nat`, and those that a host gives to its own connections: where an address of the host's own is the source of
//! both, no port may be of both kinds.

use std::ops::RangeInclusive;

use super::abi::{NAT_PORT_FIRST, NAT_PORTS};

/// The ports that a node's flows get towards targets: 0 has the lower half, 1 the upper one.
#[must_use]
pub fn of_node(node: u8) -> RangeInclusive<u16> {
    let half = u16::try_from(NAT_PORTS / 2).unwrap_or(u16::MAX);
    let first = NAT_PORT_FIRST + half * u16::from(node & 1);
    first..=first + (half - 1)
}

/// The two numbers of `net.ipv4.ip_local_port_range`; none if they are none.
#[must_use]
pub fn parse_range(text: &str) -> Option<RangeInclusive<u16>> {
    let mut numbers = text.split_whitespace().map(str::parse);
    let (Some(Ok(first)), Some(Ok(last)), None) = (numbers.next(), numbers.next(), numbers.next()) else {
        return None;
    };
    Some(first..=last)
}

/// The list of `net.ipv4.ip_local_reserved_ports`, such as `8080,9000-9010`; what cannot be read is left out.
#[must_use]
pub fn parse_reserved(text: &str) -> Vec<RangeInclusive<u16>> {
    let range = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some(first.trim().parse().ok()?..=last.trim().parse().ok()?)
    };
    text.split(',').filter_map(range).collect()
}

/// The ports of `wanted` that the host gives to its own connections: in its range, and not reserved.
#[must_use]
pub fn in_common(
    wanted: &RangeInclusive<u16>,
    range: &RangeInclusive<u16>,
    reserved: &[RangeInclusive<u16>],
) -> Vec<RangeInclusive<u16>> {
    let mut found: Vec<RangeInclusive<u16>> = Vec::new();
    let given = |port: &u16| range.contains(port) && !reserved.iter().any(|it| it.contains(port));
    for port in wanted.clone().filter(given) {
        match found.last_mut() {
            Some(last) if last.end().checked_add(1) == Some(port) => *last = *last.start()..=port,
            _ => found.push(port..=port),
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_node_has_its_half() {
        assert_eq!(of_node(0), 1024..=33_279);
        assert_eq!(of_node(1), 33_280..=65_535);
    }

    #[test]
    fn settings_of_the_host_are_read() {
        assert_eq!(parse_range("32768\t60999\n"), Some(32_768..=60_999));
        for wrong in ["", "1", "1 2 3", "1 a", "1 70000"] {
            assert_eq!(parse_range(wrong), None, "{wrong}");
        }
        assert_eq!(parse_reserved("8080,9000-9010\n"), [8080..=8080, 9000..=9010]);
        assert!(parse_reserved("\n").is_empty());
    }

    #[test]
    fn ports_in_common_are_those_that_nobody_has_reserved() {
        let common = |node, range: &str, reserved: &str| {
            in_common(&of_node(node), &parse_range(range).unwrap(), &parse_reserved(reserved))
        };
        // As Linux has it.
        assert_eq!(common(0, "32768 60999", ""), [32_768..=33_279]);
        assert_eq!(common(1, "32768 60999", ""), [33_280..=60_999]);
        assert_eq!(
            common(0, "32768 60999", "33000-33009,33100"),
            [32_768..=32_999, 33_010..=33_099, 33_101..=33_279]
        );
        for (node, range, reserved) in
            [(0, "32768 60999", "1024-33279"), (0, "33280 60999", ""), (1, "1024 33279", "")]
        {
            assert!(common(node, range, reserved).is_empty(), "{range} {reserved}");
        }
        assert_eq!(common(1, "1024 65535", "1-65534"), [65_535..=65_535]);
    }
}

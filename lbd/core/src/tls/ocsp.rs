//! What an OCSP response (RFC 6960) says. Clients verify it; here it is only looked at whether it is of any use to them.

use super::der::{
    ENUMERATED, GENERALIZED_TIME, INTEGER, Malformed, OCTET_STRING, OID, Reader, SEQUENCE, time,
};

/// What is said of one certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// The certificate's number.
    pub serial: Vec<u8>,
    /// Whether it is not revoked.
    pub good: bool,
    /// Since when this is known, in seconds since 1970.
    pub this_update: i64,
    /// Until when it can be used; none for as long as nothing newer is known.
    pub next_update: Option<i64>,
}

impl Response {
    /// Reads what a response says of the certificate with this number, if it says something of it.
    ///
    /// # Errors
    ///
    /// That it is none.
    pub fn find(der: &[u8], serial: &[u8]) -> Result<Option<Self>, Malformed> {
        let mut outer = Reader::new(der).enter(SEQUENCE)?;
        // RFC 6960, section 4.2.1: 0 is `successful`; others have no `responseBytes`.
        if outer.expect(ENUMERATED)?.content != [0] {
            return Err(Malformed("the responder has refused to answer"));
        }
        let mut bytes = outer.enter(0xa0)?.enter(SEQUENCE)?;
        bytes.expect(OID)?;
        let basic = bytes.expect(OCTET_STRING)?.content;
        let mut data = Reader::new(basic).enter(SEQUENCE)?.enter(SEQUENCE)?;
        // The version, who responds, when it was made.
        data.optional(0xa0)?;
        data.next()?;
        data.expect(GENERALIZED_TIME)?;
        let mut all = data.enter(SEQUENCE)?;
        while !all.is_empty() {
            let one = Self::read(all.enter(SEQUENCE)?)?;
            if one.serial == serial {
                return Ok(Some(one));
            }
        }
        Ok(None)
    }

    fn read(mut single: Reader<'_>) -> Result<Self, Malformed> {
        let mut id = single.enter(SEQUENCE)?;
        id.expect(SEQUENCE)?;
        id.expect(OCTET_STRING)?;
        id.expect(OCTET_STRING)?;
        let serial = id.expect(INTEGER)?.content.to_vec();
        let good = single.next()?.tag == 0x80;
        let this_update = time(single.expect(GENERALIZED_TIME)?)?;
        let next_update = match single.optional(0xa0)? {
            Some(value) => Some(time(Reader::new(value.content).expect(GENERALIZED_TIME)?)?),
            None => None,
        };
        Ok(Self { serial, good, this_update, next_update })
    }

    /// Whether it says at a time, in seconds since 1970, that the certificate is good.
    #[must_use]
    pub fn is_good(&self, now: i64) -> bool {
        self.good && self.this_update <= now && self.next_update.is_none_or(|end| now < end)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn wrap(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
        let content = parts.concat();
        let length = match content.len() {
            short @ 0..0x80 => vec![u8::try_from(short).unwrap()],
            long => vec![0x81, u8::try_from(long).unwrap()],
        };
        [&[tag][..], &length, &content].concat()
    }

    /// As RFC 6960, section 4.2.1, has it.
    fn response(status: u8, state: &[u8], next_update: &[u8]) -> Vec<u8> {
        let id = wrap(
            0x30,
            &[
                &wrap(0x30, &[&wrap(6, &[&[0x2b, 14]])]),
                &wrap(4, &[&[1; 20]]),
                &wrap(4, &[&[2; 20]]),
                &[2, 2, 0x12, 0x34],
            ],
        );
        let at = wrap(0x18, &[b"20240301000000Z"]);
        let single = wrap(0x30, &[&id, state, &at, next_update]);
        let data = wrap(0x30, &[&wrap(0xa2, &[&wrap(4, &[&[3; 20]])]), &at, &wrap(0x30, &[&single])]);
        let basic = wrap(0x30, &[&data]);
        let bytes = wrap(0x30, &[&wrap(6, &[&[0x2b]]), &wrap(4, &[&basic])]);
        wrap(0x30, &[&wrap(0x0a, &[&[status]]), &wrap(0xa0, &[&bytes])])
    }

    #[test]
    fn what_is_said_of_a_certificate() {
        let next = wrap(0xa0, &[&wrap(0x18, &[b"20240302000000Z"])]);
        let find = |der: &[u8]| Response::find(der, &[0x12, 0x34]);
        let good = find(&response(0, &[0x80, 0], &next)).unwrap().unwrap();
        let expected = Response {
            serial: vec![0x12, 0x34],
            good: true,
            this_update: 1_709_251_200,
            next_update: Some(1_709_337_600),
        };
        assert_eq!(good, expected);
        assert!(good.is_good(1_709_251_200) && good.is_good(1_709_337_599));
        assert!(!good.is_good(1_709_251_199) && !good.is_good(1_709_337_600));
        let unknown = find(&response(0, &[0x82, 0], &[])).unwrap().unwrap();
        assert!(!unknown.good && unknown.next_update.is_none() && !unknown.is_good(1_709_251_200));
        assert!(find(&response(6, &[0x80, 0], &[])).is_err());
        assert_eq!(Response::find(&response(0, &[0x80, 0], &next), &[0x12]), Ok(None));
    }

    proptest! {
        #[test]
        fn damaged_ones_are_read_or_refused(at in any::<prop::sample::Index>(), byte in any::<u8>()) {
            let mut der = response(0, &[0x80, 0], &[]);
            let at = at.index(der.len());
            der[at] = byte;
            drop(Response::find(&der, &[0x12, 0x34]));
            drop(Response::find(&der[..at], &[0x12, 0x34]));
        }
    }
}

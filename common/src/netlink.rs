//! Netlink's framing: messages within datagrams, attributes within messages, and where the answer to a request ends. Without a
//! socket: the daemons send and receive, and say what is in the messages that are of interest to them.
//!
//! What does not hold together ends the list that it is in, and nothing behind it is read. Numbers are in the host's order, as the
//! kernel writes them.

use std::io;
use std::net::IpAddr;

/// The length of a message's header, in bytes.
pub const HEADER_LEN: usize = 16;

/// The length of an attribute's header, in bytes.
const ATTRIBUTE_HEADER_LEN: usize = 4;

/// What messages and attributes begin at multiples of, in bytes.
const ALIGNMENT: usize = 4;

/// The bits of an attribute's kind that say how it is written.
const KIND_FLAGS: u16 = 0x8000 | 0x4000;

/// The message with an error, or with the number 0: an acknowledgement (`NLMSG_ERROR`).
const ERROR: u16 = 2;

/// The last message of a list (`NLMSG_DONE`); it may carry an error too.
const DONE: u16 = 3;

/// The flag of a message of a list that changed while the kernel wrote it (`NLM_F_DUMP_INTR`): what changed may be missing, or be
/// there twice.
const INTERRUPTED: u16 = 0x10;

/// The kernel has refused a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Its error number, above 0.
    pub errno: i32,
}

impl From<Refusal> for io::Error {
    fn from(refusal: Refusal) -> Self {
        Self::from_raw_os_error(refusal.errno)
    }
}

/// One message within a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RawMessage<'a> {
    /// What it is about.
    pub message_type: u16,
    /// `NLM_F_*`.
    pub flags: u16,
    /// That of the request which it answers; 0 where nobody asked.
    pub sequence: u32,
    /// What is behind its header.
    pub payload: &'a [u8],
}

/// Whether a message is the end of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It is.
    Yes,
    /// It is a part of the answer.
    No,
    /// It belongs to another answer.
    Other,
}

impl RawMessage<'_> {
    /// Whether it ends the answer to the request of this number; or the error that it ends it with.
    pub fn ended(&self, sequence: u32) -> Result<Ended, Refusal> {
        if self.sequence != sequence {
            return Ok(Ended::Other);
        }
        if !matches!(self.message_type, ERROR | DONE) {
            return Ok(Ended::No);
        }
        // An acknowledgement is an error of number 0.
        let code = self.payload.first_chunk().map_or(0, |bytes| i32::from_ne_bytes(*bytes));
        if code < 0 { Err(Refusal { errno: code.saturating_neg() }) } else { Ok(Ended::Yes) }
    }

    /// Whether it says that what is listed changed meanwhile. Any message of a list may say so, the last one included.
    #[must_use]
    pub const fn interrupted(&self) -> bool {
        self.flags & INTERRUPTED != 0
    }
}

/// The messages of a datagram.
#[derive(Clone, Debug)]
pub struct Messages<'a>(pub &'a [u8]);

impl<'a> Iterator for Messages<'a> {
    type Item = RawMessage<'a>;

    fn next(&mut self) -> Option<Self::Item> {
        let header: &[u8; HEADER_LEN] = self.0.first_chunk()?;
        let long =
            |at: usize| u32::from_ne_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
        let short = |at: usize| u16::from_ne_bytes([header[at], header[at + 1]]);
        let length = usize::try_from(long(0)).ok()?;
        let payload = self.0.get(HEADER_LEN..length)?;
        let message = RawMessage { message_type: short(4), flags: short(6), sequence: long(8), payload };
        self.0 = self.0.get(length.next_multiple_of(ALIGNMENT)..).unwrap_or_default();
        Some(message)
    }
}

/// The answer to one request, of messages that the asker makes something of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answers<T> {
    /// What was made of them, in their order.
    pub list: Vec<T>,
    /// Something changed while the kernel was listing: ask again.
    pub interrupted: bool,
}

impl<T> Default for Answers<T> {
    fn default() -> Self {
        Self { list: Vec::new(), interrupted: false }
    }
}

impl<T> Answers<T> {
    /// Takes one datagram; true at the end of the answer. Left-overs of an earlier request are passed over. `parse` is given type and
    /// payload, and makes nothing of what is of no interest.
    pub fn take(
        &mut self,
        datagram: &[u8],
        sequence: u32,
        mut parse: impl FnMut(u16, &[u8]) -> Option<T>,
    ) -> Result<bool, Refusal> {
        for message in Messages(datagram) {
            let ended = message.ended(sequence)?;
            if ended == Ended::Other {
                continue;
            }
            self.interrupted |= message.interrupted();
            if ended == Ended::Yes {
                return Ok(true);
            }
            self.list.extend(parse(message.message_type, message.payload));
        }
        Ok(false)
    }
}

/// The attributes in `bytes`, kind and value.
pub fn attributes(bytes: Option<&[u8]>) -> impl Iterator<Item = (u16, &[u8])> {
    let mut rest = bytes.unwrap_or_default();
    std::iter::from_fn(move || {
        let header = rest.first_chunk::<ATTRIBUTE_HEADER_LEN>()?;
        let length = usize::from(u16::from_ne_bytes([header[0], header[1]]));
        let kind = u16::from_ne_bytes([header[2], header[3]]) & !KIND_FLAGS;
        let value = rest.get(ATTRIBUTE_HEADER_LEN..length)?;
        rest = rest.get(length.next_multiple_of(ALIGNMENT)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// A number of four bytes; what is behind them does not matter.
#[must_use]
pub fn number(value: &[u8]) -> Option<u32> {
    value.first_chunk().map(|bytes| u32::from_ne_bytes(*bytes))
}

/// An address, of the family that its length says.
#[must_use]
pub fn ip(value: &[u8]) -> Option<IpAddr> {
    if let Ok(octets) = <[u8; 4]>::try_from(value) {
        return Some(IpAddr::from(octets));
    }
    <[u8; 16]>::try_from(value).ok().map(IpAddr::from)
}

/// Text up to its final zero.
#[must_use]
pub fn text(value: &[u8]) -> String {
    String::from_utf8_lossy(value.split(|byte| *byte == 0).next().unwrap_or_default()).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A message as the kernel writes it, by the header's description in netlink(7).
    fn message(message_type: u16, flags: u16, sequence: u32, payload: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend(u32::try_from(16 + payload.len()).unwrap().to_ne_bytes());
        bytes.extend(message_type.to_ne_bytes());
        bytes.extend(flags.to_ne_bytes());
        bytes.extend(sequence.to_ne_bytes());
        bytes.extend(4711_u32.to_ne_bytes());
        bytes.extend(payload);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend(u16::try_from(4 + value.len()).unwrap().to_ne_bytes());
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    fn take(answers: &mut Answers<Vec<u8>>, datagram: &[u8]) -> Result<bool, Refusal> {
        answers.take(datagram, 5, |message_type, payload| (message_type == 16).then(|| payload.to_vec()))
    }

    #[test]
    fn an_answer_goes_over_datagrams_to_its_end() {
        let mut answers = Answers::default();
        let first =
            [message(16, 2, 5, b"one"), message(17, 2, 5, b"of no interest"), message(16, 2, 5, b"two")];
        assert_eq!(take(&mut answers, &first.concat()), Ok(false));
        let last = [message(16, 2, 5, b"three"), message(DONE, 2, 5, &[0; 4]), message(16, 0, 5, b"behind")];
        assert_eq!(take(&mut answers, &last.concat()), Ok(true));
        assert_eq!(answers.list, [b"one".to_vec(), b"two".to_vec(), b"three".to_vec()]);
        assert!(!answers.interrupted);
    }

    #[test]
    fn an_interruption_is_heard_from_any_message_of_the_list() {
        for interrupted in 0..3 {
            let flags = |number| if number == interrupted { 2 | 0x10 } else { 2 };
            let datagram = [
                message(16, flags(0), 5, b"one"),
                message(17, flags(1), 5, b"of no interest"),
                message(DONE, flags(2), 5, &[0; 4]),
            ];
            let mut answers = Answers::default();
            assert_eq!(take(&mut answers, &datagram.concat()), Ok(true));
            assert!(answers.interrupted, "told by message {interrupted}");
        }
        let mut answers = Answers::default();
        take(&mut answers, &[message(DONE, 0x10, 4, &[0; 4]), message(DONE, 0, 5, &[0; 4])].concat())
            .unwrap();
        assert!(!answers.interrupted, "told of another list");
    }

    #[test]
    fn left_overs_of_an_earlier_request_are_passed_over() {
        let mut answers = Answers::default();
        let datagram = [message(16, 0, 4, b"late"), message(ERROR, 0, 4, &(-1_i32).to_ne_bytes())].concat();
        assert_eq!(take(&mut answers, &datagram), Ok(false));
        assert_eq!(answers, Answers::default());
    }

    #[test]
    fn a_refusal_is_an_error_and_an_acknowledgement_is_none() {
        for kind in [ERROR, DONE] {
            let refused = take(&mut Answers::default(), &message(kind, 0, 5, &(-13_i32).to_ne_bytes()));
            assert_eq!(refused, Err(Refusal { errno: 13 }));
            assert_eq!(io::Error::from(refused.unwrap_err()).raw_os_error(), Some(13));
            assert_eq!(take(&mut Answers::default(), &message(kind, 0, 5, &[0; 4])), Ok(true));
            // Nor is an end without a number.
            assert_eq!(take(&mut Answers::default(), &message(kind, 0, 5, &[])), Ok(true));
        }
        let least = take(&mut Answers::default(), &message(ERROR, 0, 5, &i32::MIN.to_ne_bytes()));
        assert_eq!(least, Err(Refusal { errno: i32::MAX }));
    }

    #[test]
    fn what_is_cut_ends_the_list() {
        let whole = [message(16, 0, 5, b"one"), message(16, 0, 5, b"four")].concat();
        assert_eq!(Messages(&whole).count(), 2);
        for length in 0..whole.len() {
            let expected = usize::from(length >= 19);
            assert_eq!(Messages(&whole[..length]).count(), expected, "{length} of {} bytes", whole.len());
        }
        // A length that is less than the header's would lead nowhere.
        for length in 0..16_u32 {
            let mut short = whole.clone();
            short[..4].copy_from_slice(&length.to_ne_bytes());
            assert_eq!(Messages(&short).count(), 0, "of length {length}");
        }
        let mut long = whole;
        long[..4].copy_from_slice(&u32::MAX.to_ne_bytes());
        assert_eq!(Messages(&long).count(), 0);
    }

    #[test]
    fn attributes_have_their_values_without_what_fills_them_up() {
        let bytes = [attribute(3, b"eth0\0"), attribute(1 | 0x8000, &[1]), attribute(2, &[])].concat();
        let found: Vec<(u16, &[u8])> = attributes(Some(&bytes)).collect();
        assert_eq!(found, [(3, &b"eth0\0"[..]), (1, &[1]), (2, &[])]);
        assert_eq!(attributes(None).count(), 0);
        for length in 0..bytes.len() {
            // Never more than there is, whatever is missing.
            assert!(attributes(Some(&bytes[..length])).count() <= 2);
        }
        assert_eq!(attributes(Some(&[3, 0, 1, 0])).count(), 0, "shorter than its own header");
        assert_eq!(attributes(Some(&[0, 0, 1, 0])).count(), 0, "would never end");
    }

    #[test]
    fn values_are_read_by_their_length() {
        assert_eq!(number(&7_u32.to_ne_bytes()), Some(7));
        assert_eq!(number(&[1, 2, 3]), None);
        assert_eq!(ip(&[192, 0, 2, 1]), "192.0.2.1".parse().ok());
        assert_eq!(ip(&[0; 16]), "::".parse().ok());
        assert_eq!(ip(&[1, 2, 3]), None);
        assert_eq!(text(b"eth0\0\0"), "eth0");
        assert_eq!(text(b"eth0"), "eth0");
        assert_eq!(text(b""), "");
    }
}

//! Compressing answers on their way to clients, by gzip (RFC 1952).
//!
//! What a target sends is taken in as it comes, and comes out when there is enough of it, when the target pauses, and at the end, so that
//! nobody waits for what has come. A worker compresses a bounded number of answers at a time; others pass as they are.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::IpAddr;
use std::rc::Rc;

use flate2::{Compress, Compression, Crc, FlushCompress, Status};
use lbd_core::sources::network_of;

/// More answers than this a worker does not compress at a time. Each has some 400 KiB for what it has seen lately, and at most 200 KiB for what
/// has come out and was not taken.
const PRESSES_MAX: usize = 64;

/// As long as fewer are compressed than this one client may have them all. The rest is for those who have little.
const FREE_FOR_ALL: usize = PRESSES_MAX / 2;

/// So many answers for one client (an address, or a network of 64 bits of IPv6) are always little.
const PER_CLIENT: usize = 4;

/// So many are kept for the next answers: making one means clearing its memory.
const IDLE_MAX: usize = 8;

/// Where most of what can be had is had for a fraction of the time.
const LEVEL: u32 = 4;

/// What comes out has at least this much room, in bytes: a flush needs seven.
const ROOM_BYTES: usize = 8 * 1024;

/// What has come out is not held in more memory than this once it was taken, in bytes.
const KEPT_BYTES: usize = 16 * 1024;

/// RFC 1952, section 2.3: two bytes by which it is known, deflate, no flags, no time, nothing about how it was made, an unknown system.
const HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];

/// The presses of a worker.
#[derive(Debug, Default)]
pub(crate) struct Presses {
    under_way: Cell<usize>,
    /// The same of each client that has some.
    by_client: RefCell<HashMap<IpAddr, usize>>,
    idle: RefCell<Vec<Compress>>,
}

/// An answer that is compressed.
#[derive(Debug)]
pub(super) struct Press {
    presses: Rc<Presses>,
    client: IpAddr,
    /// Until it goes back.
    deflate: Option<Compress>,
    crc: Crc,
    /// What has come out and was not taken.
    out: Vec<u8>,
    begun: bool,
    /// Something that was taken in may not have come out.
    holds: bool,
    ended: bool,
    /// Bytes taken in, and come out.
    bytes: [u64; 2],
}

/// Nothing comes out of a press any more, which has no reason to happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stuck;

impl Presses {
    /// A press for an answer to this client, if one may be had.
    pub(super) fn take(self: &Rc<Self>, client: IpAddr) -> Option<Box<Press>> {
        let (client, under_way) = (network_of(client), self.under_way.get());
        let mut by_client = self.by_client.borrow_mut();
        let its = by_client.get(&client).copied().unwrap_or(0);
        if under_way >= PRESSES_MAX || (under_way >= FREE_FOR_ALL && its >= PER_CLIENT) {
            return None;
        }
        self.under_way.set(under_way + 1);
        by_client.insert(client, its + 1);
        let fresh = || Compress::new(Compression::new(LEVEL), false);
        let deflate = self.idle.borrow_mut().pop().unwrap_or_else(fresh);
        Some(Box::new(Press {
            presses: Rc::clone(self),
            client,
            deflate: Some(deflate),
            crc: Crc::new(),
            out: Vec::new(),
            begun: false,
            holds: false,
            ended: false,
            bytes: [0; 2],
        }))
    }
}

impl Press {
    /// What has come out.
    pub(super) fn out(&self) -> &[u8] {
        &self.out
    }

    /// All that has come out was taken.
    pub(super) fn taken(&mut self) {
        self.out.clear();
        self.out.shrink_to(KEPT_BYTES);
    }

    /// Bytes taken in and come out so far.
    pub(super) const fn bytes(&self) -> [u64; 2] {
        self.bytes
    }

    /// Takes in data, and with the `last` of it ends what comes out.
    ///
    /// # Errors
    /// Nothing comes out any more.
    pub(super) fn press(&mut self, data: &[u8], last: bool) -> Result<(), Stuck> {
        if self.ended || (data.is_empty() && !last) {
            return Ok(());
        }
        let before = self.out.len();
        if !self.begun {
            self.begun = true;
            self.out.extend_from_slice(&HEADER);
        }
        self.crc.update(data);
        self.run(data, if last { FlushCompress::Finish } else { FlushCompress::None })?;
        (self.holds, self.ended) = (!last, last);
        if last {
            self.out.extend_from_slice(&self.crc.sum().to_le_bytes());
            self.out.extend_from_slice(&self.crc.amount().to_le_bytes());
        }
        self.count(data.len(), before);
        Ok(())
    }

    /// Has all come out that was taken in.
    ///
    /// # Errors
    /// Nothing comes out any more.
    pub(super) fn flush(&mut self) -> Result<(), Stuck> {
        if std::mem::take(&mut self.holds) {
            let before = self.out.len();
            self.run(&[], FlushCompress::Sync)?;
            self.count(0, before);
        }
        Ok(())
    }

    const fn count(&mut self, taken: usize, before: usize) {
        self.bytes[0] += taken as u64;
        self.bytes[1] += (self.out.len() - before) as u64;
    }

    fn run(&mut self, mut data: &[u8], flush: FlushCompress) -> Result<(), Stuck> {
        let deflate = self.deflate.as_mut().ok_or(Stuck)?;
        loop {
            self.out.reserve(ROOM_BYTES);
            let (taken, made) = (deflate.total_in(), deflate.total_out());
            let status = deflate.compress_vec(data, &mut self.out, flush).map_err(|_| Stuck)?;
            let taken = usize::try_from(deflate.total_in() - taken).map_err(|_| Stuck)?;
            data = data.get(taken..).ok_or(Stuck)?;
            if status == Status::StreamEnd {
                return Ok(());
            }
            // zlib's manual of `deflate`: "If deflate returns with avail_out == 0, this function must be called again with the same value of
            // the flush parameter and more output space".
            let is_full = self.out.len() == self.out.capacity();
            if data.is_empty() && !is_full && flush != FlushCompress::Finish {
                return Ok(());
            }
            if taken == 0 && deflate.total_out() == made {
                return Err(Stuck);
            }
        }
    }
}

impl Drop for Press {
    fn drop(&mut self) {
        self.presses.under_way.set(self.presses.under_way.get() - 1);
        let mut by_client = self.presses.by_client.borrow_mut();
        if let Some(its) = by_client.get_mut(&self.client) {
            *its -= 1;
            if *its == 0 {
                by_client.remove(&self.client);
            }
        }
        let mut idle = self.presses.idle.borrow_mut();
        if idle.len() < IDLE_MAX
            && let Some(mut deflate) = self.deflate.take()
        {
            deflate.reset();
            idle.push(deflate);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use flate2::read::GzDecoder;

    use super::*;

    fn client(number: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, number])
    }

    fn press() -> Box<Press> {
        Rc::<Presses>::default().take(client(1)).expect("a press")
    }

    fn unpressed(bytes: &[u8]) -> Vec<u8> {
        let mut text = Vec::new();
        GzDecoder::new(bytes).read_to_end(&mut text).expect("gzip");
        text
    }

    /// Bytes of which little can be saved, and then bytes of which much can.
    fn mixed(length: usize) -> Vec<u8> {
        let mut rng = common::rng::Rng::new(1);
        let noise = (0..length / 2).map(|_| rng.next_u64().to_le_bytes()[0]);
        noise.chain((0..length / 2).map(|index| b"tandem"[index % 6])).collect()
    }

    #[test]
    fn what_comes_out_is_what_went_in_however_it_comes() {
        let text = mixed(300_000);
        for step in [1, 1000, 65_536, 300_000] {
            let mut press = press();
            let mut all = Vec::new();
            // Single bytes are enough for a while.
            let text = if step == 1 { &text[..2000] } else { &text[..] };
            for (index, piece) in text.chunks(step).enumerate() {
                press.press(piece, false).unwrap();
                if index % 3 == 0 {
                    press.flush().unwrap();
                }
                all.extend_from_slice(press.out());
                press.taken();
            }
            press.press(&[], true).unwrap();
            all.extend_from_slice(press.out());
            assert!(unpressed(&all) == text, "{step}");
            assert_eq!(press.bytes(), [text.len() as u64, all.len() as u64]);
        }
    }

    #[test]
    fn a_flush_has_all_come_out_and_a_second_one_nothing_more() {
        let mut press = press();
        press.press(b"data: 1\n\n", false).unwrap();
        press.flush().unwrap();
        let mut text = [0; 9];
        GzDecoder::new(press.out()).read_exact(&mut text).expect("it is all there");
        assert_eq!(&text, b"data: 1\n\n");
        press.taken();
        press.flush().unwrap();
        assert!(press.out().is_empty());
    }

    #[test]
    fn nothing_is_something_once_compressed() {
        let mut press = press();
        press.press(&[], false).unwrap();
        assert!(press.out().is_empty());
        press.press(&[], true).unwrap();
        assert!(press.out().len() >= 18 && unpressed(press.out()).is_empty());
        let length = press.out().len();
        press.press(&[], true).unwrap();
        assert_eq!(press.out().len(), length, "it ends once");
    }

    #[test]
    fn presses_are_bounded_and_begin_anew_when_they_are_used_again() {
        let presses = Rc::<Presses>::default();
        let take = |number: u8| presses.take(client(number / 4));
        let mut held: Vec<Box<Press>> = (0..64).map(|number| take(number).expect("a press")).collect();
        assert!(take(100).is_none());
        held[0].press(b"half of something", false).unwrap();
        held.clear();
        assert_eq!((presses.under_way.get(), presses.idle.borrow().len()), (0, IDLE_MAX));
        for _ in 0..IDLE_MAX + 2 {
            let mut press = take(0).expect("a press");
            press.press(b"all of it", true).unwrap();
            assert_eq!(unpressed(press.out()), b"all of it");
            held.push(press);
        }
    }

    #[test]
    fn one_client_leaves_others_theirs() {
        let presses = Rc::<Presses>::default();
        let all_of =
            |number: u8| std::iter::from_fn(|| presses.take(client(number))).take(100).collect::<Vec<_>>();
        let mut held: Vec<Vec<Box<Press>>> = (1..12).map(all_of).collect();
        let counts: Vec<usize> = held.iter().map(Vec::len).collect();
        assert_eq!(counts, [32, 4, 4, 4, 4, 4, 4, 4, 4, 0, 0]);
        assert_eq!(presses.under_way.get(), PRESSES_MAX);
        held[0].truncate(4);
        assert_eq!(presses.under_way.get(), 36);
        assert!(presses.take(client(1)).is_none(), "it has what is little");
        held.clear();
        assert!(presses.by_client.borrow().is_empty(), "and nobody is remembered");
    }

    /// What is said of memory: a whole buffer comes in at a time.
    #[test]
    fn what_waits_to_be_taken_is_bounded() {
        let mut press = press();
        let noise = &mixed(2 * 64 * 1024)[..64 * 1024];
        for _ in 0..20 {
            press.press(noise, false).unwrap();
            press.flush().unwrap();
            assert!(press.out.capacity() <= 200 * 1024, "{}", press.out.capacity());
            press.taken();
            assert!(press.out.capacity() <= KEPT_BYTES);
        }
    }
}

//! Many clients at a time in one thread, with their target in the same one or elsewhere.

use std::io;
use std::net::TcpListener;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::poller::{Poller, Token};
use super::server::{Behaviour, Server};
use super::{Meter, STUCK_LIMIT, Stretch, stuck};

/// How late a target of its own thread may notice that it is to stop.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// How many connects are under way at once where all connections stay open.
const AT_ONCE: usize = 64;

/// Clients at a pace come in bursts of so long, as a link's interrupts bring packets: each way to the target then has the same bursts to do.
const SLOT: Duration = Duration::from_millis(2);
/// How often it is looked whether the next ones are due.
const DUE_EVERY: Duration = Duration::from_millis(1);

/// A client's connection.
pub(crate) trait Client {
    /// Goes on; answers whether it has got what it came for by this, which is said once.
    fn step(&mut self, buffer: &mut [u8]) -> io::Result<bool>;
}

/// What the thread waits for, and the target if it is this thread's.
#[derive(Debug)]
pub(crate) struct Scene<'a> {
    poller: Poller,
    server: Option<Server<'a>>,
    tokens: Vec<Token>,
}

impl<'a> Scene<'a> {
    /// Clients only.
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self { poller: Poller::new()?, server: None, tokens: Vec::new() })
    }

    /// With the target.
    pub(crate) fn with_target(listener: &'a TcpListener, behaviour: Behaviour) -> io::Result<Self> {
        let poller = Poller::new()?;
        let server = Some(Server::new(listener, behaviour, &poller)?);
        Ok(Self { poller, server, tokens: Vec::new() })
    }

    /// Is nothing but the target until it is told to stop.
    pub(crate) fn serve(mut self, stop: &AtomicBool) -> io::Result<()> {
        while !stop.load(Ordering::Acquire) {
            self.poller.wait(&mut self.tokens, LOOK_EVERY)?;
            self.handle(|_| {})?;
        }
        Ok(())
    }

    /// Puts the clients that may go on into `clients`, once the target has done its part.
    fn wait(&mut self, clients: &mut Vec<usize>) -> io::Result<()> {
        if self.wait_for(clients, STUCK_LIMIT)? { Ok(()) } else { Err(stuck()) }
    }

    /// The same of what happens within `limit` (whole milliseconds); answers whether anything has.
    fn wait_for(&mut self, clients: &mut Vec<usize>, limit: Duration) -> io::Result<bool> {
        clients.clear();
        self.poller.wait(&mut self.tokens, limit)?;
        self.handle(|index| clients.push(index as usize))?;
        Ok(!self.tokens.is_empty())
    }

    fn handle(&mut self, mut client: impl FnMut(u32)) -> io::Result<()> {
        for token in &self.tokens {
            match (*token, &mut self.server) {
                (Token::Client(index), _) => client(index),
                (Token::Listener, Some(server)) => server.accept(&self.poller)?,
                (Token::Served(index), Some(server)) => server.serve(index),
                (Token::Listener | Token::Served(_), None) => {}
            }
        }
        Ok(())
    }
}

/// Has `count` clients come and go, `at_once` at a time, after as many tenths as a warm-up.
pub(crate) fn come_and_go<C: Client>(
    mut scene: Scene<'_>,
    count: u64,
    at_once: u32,
    meter: Meter<'_>,
    mut start: impl FnMut(&Poller, u32) -> io::Result<C>,
) -> io::Result<Stretch> {
    let starts = (0..at_once).map(|index| start(&scene.poller, index).map(Some));
    let mut clients = starts.collect::<io::Result<Vec<Option<C>>>>()?;
    let (warm, mut started, mut ended) = (count / 10, u64::from(at_once), 0_u64);
    let (mut begin, mut before) = (Instant::now(), meter()?);
    let (mut ready, mut buffer) = (Vec::new(), [0; 4096]);
    while ended < warm + count {
        scene.wait(&mut ready)?;
        for &index in &ready {
            let Some(client) = &mut clients[index] else { continue };
            if !client.step(&mut buffer)? {
                continue;
            }
            ended += 1;
            clients[index] = None;
            if started < warm + count {
                let token = u32::try_from(index).map_err(io::Error::other)?;
                clients[index] = Some(start(&scene.poller, token)?);
                started += 1;
            }
            if ended == warm {
                (begin, before) = (Instant::now(), meter()?);
            }
        }
    }
    Ok(Stretch { count, wall: begin.elapsed(), processor: meter()?.saturating_sub(before) })
}

/// Has so many clients come, and answers what `look` says while all of them are there with what they came for.
pub(crate) fn come_and_stay<C: Client, T>(
    mut scene: Scene<'_>,
    count: usize,
    mut start: impl FnMut(&Poller, u32) -> io::Result<C>,
    look: impl FnOnce() -> io::Result<T>,
) -> io::Result<T> {
    let mut clients: Vec<C> = Vec::with_capacity(count);
    let (mut satisfied, mut ready, mut buffer) = (0, Vec::new(), [0; 4096]);
    while satisfied < count {
        while clients.len() < count && clients.len() - satisfied < AT_ONCE {
            let index = u32::try_from(clients.len()).map_err(io::Error::other)?;
            clients.push(start(&scene.poller, index)?);
        }
        scene.wait(&mut ready)?;
        for &index in &ready {
            satisfied += usize::from(clients[index].step(&mut buffer)?);
        }
    }
    look()
}

/// How clients come and go at a steady rate.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    /// So many come in a second,
    pub(crate) per_second: u32,
    /// unless so many are there.
    pub(crate) at_once: usize,
    /// How long this goes on before it counts.
    pub(crate) warm: Duration,
    /// And how long it counts.
    pub(crate) time: Duration,
    /// Who is there when that is over has to end well within so long.
    pub(crate) ends_within: Duration,
}

impl Pace {
    /// How many are due after so long.
    fn due(&self, passed: Duration) -> u64 {
        let slots = passed.as_nanos() / SLOT.as_nanos() + 1;
        let due = u128::from(self.per_second) * SLOT.as_nanos() * slots / 1_000_000_000;
        u64::try_from(due).unwrap_or(u64::MAX)
    }
}

/// What came of a pace.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Came<T> {
    /// Clients that got what they came for in the time that counts.
    pub(crate) count: u64,
    /// And with those before and after: all that came.
    pub(crate) all: u64,
    /// What was seen when that time began, and when it was over.
    pub(crate) looks: [T; 2],
}

/// Clients by their numbers, of which some are free.
struct Crowd<C> {
    clients: Vec<Option<C>>,
    free: Vec<u32>,
}

impl<C: Client> Crowd<C> {
    const fn new() -> Self {
        Self { clients: Vec::new(), free: Vec::new() }
    }

    /// How many are there.
    fn count(&self) -> usize {
        self.clients.len() - self.free.len()
    }

    /// Has one more come.
    fn come(&mut self, start: impl FnOnce(u32) -> io::Result<C>) -> io::Result<()> {
        let index = match self.free.pop() {
            Some(index) => index,
            None => {
                self.clients.push(None);
                u32::try_from(self.clients.len() - 1).map_err(io::Error::other)?
            }
        };
        self.clients[index as usize] = Some(start(index)?);
        Ok(())
    }

    /// Has those go on that may; answers how many have got what they came for by this, and are gone.
    fn go_on(&mut self, ready: &[usize], buffer: &mut [u8]) -> io::Result<u64> {
        let mut ended = 0;
        for &index in ready {
            let Some(client) = &mut self.clients[index] else { continue };
            if client.step(buffer)? {
                self.clients[index] = None;
                self.free.push(u32::try_from(index).map_err(io::Error::other)?);
                ended += 1;
            }
        }
        Ok(ended)
    }
}

/// Has clients come and go at a pace. Who is late, since the machine or the target is, catches up; where neither does as much, there are
/// always as many as may be there at once. All that came have to end well, those that are there at the end a little later.
pub(crate) fn come_at_a_pace<C: Client, T>(
    mut scene: Scene<'_>,
    pace: Pace,
    mut start: impl FnMut(&Poller, u32) -> io::Result<C>,
    mut look: impl FnMut() -> io::Result<T>,
) -> io::Result<Came<T>> {
    let (mut crowd, mut ready, mut buffer) = (Crowd::new(), Vec::new(), [0; 4096]);
    let (mut started, mut ended) = (0_u64, 0_u64);
    let begin = Instant::now();
    let mut before = None;
    loop {
        let passed = begin.elapsed();
        if passed >= pace.warm && before.is_none() {
            before = Some((ended, look()?));
        }
        if passed >= pace.warm + pace.time {
            break;
        }
        while started < pace.due(passed) && crowd.count() < pace.at_once {
            crowd.come(|index| start(&scene.poller, index))?;
            started += 1;
        }
        scene.wait_for(&mut ready, DUE_EVERY)?;
        ended += crowd.go_on(&ready, &mut buffer)?;
    }
    let (warm, first) = before.ok_or_else(stuck)?;
    let last = look()?;
    let count = ended - warm;
    // Nobody waits for longer than this went on.
    if count == 0 {
        return Err(stuck());
    }
    let over = Instant::now();
    while crowd.count() > 0 {
        if over.elapsed() >= pace.ends_within {
            return Err(hung(crowd.count(), started, pace.ends_within));
        }
        scene.wait_for(&mut ready, DUE_EVERY)?;
        ended += crowd.go_on(&ready, &mut buffer)?;
    }
    Ok(Came { count, all: ended, looks: [first, last] })
}

fn hung(count: usize, of: u64, after: Duration) -> io::Error {
    let text = format!("{count} of {of} connections had not ended {after:?} after the last of them began");
    io::Error::new(io::ErrorKind::TimedOut, text)
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::mem;
    use std::net::{Ipv4Addr, TcpStream};

    use super::*;
    use crate::bench_tcp::load::{connect, unless_blocked};

    const PACE: Pace = Pace {
        per_second: 20_000,
        at_once: 100,
        warm: Duration::from_millis(100),
        time: Duration::from_secs(1),
        ends_within: Duration::from_secs(10),
    };

    #[test]
    fn clients_are_due_in_bursts() {
        let due = [0, 1999, 2000, 999_999].map(|micros| PACE.due(Duration::from_micros(micros)));
        assert_eq!(due, [40, 40, 80, 20_000]);
    }

    /// Sends a byte and wants it back.
    struct Byte(TcpStream, bool);

    impl Client for Byte {
        fn step(&mut self, buffer: &mut [u8]) -> io::Result<bool> {
            if !self.1 {
                self.1 = unless_blocked(self.0.write(b"x"))?.is_some();
            }
            Ok(self.1 && unless_blocked(self.0.read(buffer))? == Some(1))
        }
    }

    #[test]
    fn no_more_come_than_are_due_or_may_be_there() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let scene = Scene::with_target(&listener, Behaviour::AnswerOnce).unwrap();
        let pace = Pace { per_second: 1000, at_once: 1, ..PACE };
        let start = |poller: &Poller, index: u32| {
            assert_eq!(index, 0, "there is another one");
            Ok::<_, io::Error>(Byte(connect(poller, Token::Client(index), address)?, false))
        };
        let mut looked = 0;
        let look = || {
            looked += 1;
            Ok(looked)
        };
        let came = come_at_a_pace(scene, pace, start, look).unwrap();
        assert_eq!(came.looks, [1, 2]);
        assert!(came.count > 0 && came.count <= came.all, "{came:?}");
        assert!(came.all <= pace.due(pace.warm + pace.time), "{came:?}");
    }

    #[test]
    fn a_target_that_does_not_answer_is_noticed() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let start = |poller: &Poller, index: u32| {
            Ok::<_, io::Error>(Byte(connect(poller, Token::Client(index), address)?, false))
        };
        let pace = Pace { at_once: 1, time: Duration::from_millis(10), ..PACE };
        let error = come_at_a_pace(Scene::new().unwrap(), pace, start, || Ok(())).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    #[test]
    fn one_that_hangs_is_noticed_beside_others_that_go_on() {
        let [answering, silent] = [(); 2].map(|()| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap());
        let [good, bad] = [&answering, &silent].map(|listener| listener.local_addr().unwrap());
        let scene = Scene::with_target(&answering, Behaviour::AnswerOnce).unwrap();
        let mut first = true;
        let start = |poller: &Poller, index: u32| {
            let address = if mem::take(&mut first) { bad } else { good };
            Ok::<_, io::Error>(Byte(connect(poller, Token::Client(index), address)?, false))
        };
        let moment = Duration::from_millis(200);
        let pace = Pace { per_second: 1000, at_once: 2, time: moment, ends_within: moment, ..PACE };
        let error = come_at_a_pace(scene, pace, start, || Ok(())).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(error.to_string().starts_with("1 of "), "{error}");
    }
}

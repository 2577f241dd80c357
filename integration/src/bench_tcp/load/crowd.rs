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
        clients.clear();
        self.poller.wait(&mut self.tokens, STUCK_LIMIT)?;
        if self.tokens.is_empty() {
            return Err(stuck());
        }
        self.handle(|index| clients.push(index as usize))
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

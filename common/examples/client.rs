//! A client that balances for itself: no proxy between it and the servers, only a list of them and `common::balance`.
//!
//! ```sh
//! cat > targets.toml <<'END'
//! targets = [
//!     { id = "a", address = "127.0.0.1:8001", weight = 3 },
//!     { id = "b", address = "127.0.0.1:8002" },
//! ]
//! END
//! cargo run -p tandem-common --example client -- targets.toml power_of_two_choices 100
//! ```
//!
//! sends 100 requests, and prints how many of them each server answered. The list is written as for `lbd`'s
//! `discover = { file = "..." }`. A server that does not answer is left alone for a second, and the request goes to
//! another one.

use std::collections::BTreeMap;
use std::error::Error;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

use common::balance::{Balancer, Candidate, Member, Plan, Request, Without};
use common::config::{Algorithm, Target, load_targets};
use common::hash::HashKey;

const CONNECT_TIMEOUT: Duration = Duration::from_millis(500);
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a server is left alone after a failure.
const PENALTY: Duration = Duration::from_secs(1);

/// More of an answer is not read.
const ANSWER_BYTES_MAX: u64 = 1 << 20;

/// The servers, and who of them is next.
pub(crate) struct Client {
    targets: Vec<Target>,
    /// Since when a target may be tried again, for those that failed.
    resting: Vec<Option<Instant>>,
    /// What the balancer sees; `load` is up to whoever has several requests under way.
    candidates: Vec<Candidate>,
    balancer: Box<dyn Balancer>,
    request: Request,
}

impl Client {
    /// A client of these servers. `seed` should differ between clients, so that they don't all begin with the same one;
    /// `key` should be the same for all, and secret if others choose the client's address.
    #[must_use]
    pub(crate) fn new(targets: Vec<Target>, algorithm: Algorithm, seed: u64, key: &HashKey) -> Self {
        let members: Vec<Member<'_>> =
            targets.iter().map(|target| Member { id: &target.id, weight: target.weight }).collect();
        let balancer = Plan::new(algorithm, &members, key).balancer(seed);
        let candidates = targets.iter().map(|target| Candidate::of_weight(target.weight)).collect();
        // Who asks, for the algorithms that choose by it: a whole process is one client.
        let request = Request { source: key.source(IpAddr::V4(Ipv4Addr::LOCALHOST)), flow: seed };
        Self { resting: vec![None; targets.len()], targets, candidates, balancer, request }
    }

    /// Sends a request and answers which server answered it, and what. Servers that cannot be reached are passed over.
    ///
    /// # Errors
    ///
    /// The last failure, when no server could be reached.
    pub(crate) fn get(&mut self, path: &str) -> io::Result<(&str, String)> {
        self.wake(Instant::now());
        let mut tried = Vec::new();
        let mut last = io::Error::new(io::ErrorKind::NotConnected, "every server has failed lately");
        loop {
            let left = Without { all: &self.candidates, tried: &tried };
            let Some(index) = self.balancer.pick(&self.request, &left) else { return Err(last) };
            match ask(&self.targets[index], path) {
                Ok(answer) => return Ok((&self.targets[index].id, answer)),
                Err(error) => {
                    last = error;
                    tried.push(index);
                    self.candidates[index].share = 0;
                    self.resting[index] = Some(Instant::now() + PENALTY);
                }
            }
        }
    }

    /// Gives those a share again that have rested.
    fn wake(&mut self, now: Instant) {
        for (index, resting) in self.resting.iter_mut().enumerate() {
            if resting.is_some_and(|until| until <= now) {
                *resting = None;
                self.candidates[index] = Candidate::of_weight(self.targets[index].weight);
            }
        }
    }
}

fn ask(target: &Target, path: &str) -> io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&target.address, CONNECT_TIMEOUT)?;
    stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
    stream.set_write_timeout(Some(ANSWER_TIMEOUT))?;
    // In one piece: written part by part, a server might answer and close before it has all of it.
    stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: {}\r\n\r\n", target.address).as_bytes())?;
    let mut answer = String::new();
    stream.take(ANSWER_BYTES_MAX).read_to_string(&mut answer)?;
    Ok(answer)
}

/// Sends the requests one after the other; answers how many of them each server answered.
///
/// # Errors
///
/// When a request finds no server.
pub(crate) fn spread(client: &mut Client, requests: u32) -> io::Result<BTreeMap<String, u32>> {
    let mut answered = BTreeMap::new();
    for _ in 0..requests {
        let (server, _) = client.get("/")?;
        *answered.entry(server.to_owned()).or_default() += 1;
    }
    Ok(answered)
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [file, algorithm, requests] = &arguments[..] else {
        return Err("give a file of targets, an algorithm and a number of requests".into());
    };
    let algorithm = Algorithm::ALL.into_iter().find(|known| known.name() == algorithm);
    let algorithm = algorithm.ok_or("there is no such algorithm")?;
    let seed = u64::from(std::process::id());
    let mut client = Client::new(load_targets(Path::new(file))?, algorithm, seed, &HashKey::new([0; 16]));
    for (server, count) in spread(&mut client, requests.parse()?)? {
        writeln!(io::stdout(), "{server:20} {count}")?;
    }
    Ok(())
}

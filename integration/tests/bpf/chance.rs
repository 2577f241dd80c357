//! Which segments the second chance's program takes for those of a connection that this node has closed first, and the kernel still has in
//! TIME_WAIT: its client may be back from the same port, and then be the other node's.

use std::io::Read;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use aya::maps::{Array, HashMap};
use aya::programs::{SchedClassifier, TestRun, TestRunOptions};
use aya::{Ebpf, EbpfLoader};
use integration::bench_l4::network::with_clients;
use integration::bench_l4::object::{CHANCE, TC_PASS, TC_REDIRECT, verify};
use integration::bench_l4::world::INTERFACE;
use lbd_core::chance::abi::{Peer, Proxied, ProxiedKey};
use lbd_core::forward::abi::{Abi, Be16};

use crate::support::{ACK, SYN, frame};

const PROGRAM: &str = "second_chance";
const FIN: u8 = 1;
const RST: u8 = 4;
const TCP: u8 = 6;

/// Where the other node is in `peers`.
const OTHER: u32 = 1;

/// The numbers of the connection that ends: a sequence number, and the one that it acknowledges, which soon begins anew.
const NUMBERS: [u32; 2] = [1_000, u32::MAX - 1_000];
/// Numbers of one connection may be so far apart, and so far they are not.
const NEAR: u32 = (1 << 24) - 1;
const FAR: u32 = 1 << 24;

const PATIENCE: Duration = Duration::from_secs(10);

/// Both ends of a connection to a proxied address, and the program.
struct Scene {
    object: Ebpf,
    at: SocketAddr,
    from: SocketAddr,
    client: TcpStream,
    server: TcpStream,
}

fn bytes<const N: usize>(value: &impl Abi) -> [u8; N] {
    value.to_bytes().try_into().unwrap()
}

impl Scene {
    /// In the calling thread's network. The other node may have connections as long as anybody looks.
    fn begin(ip: IpAddr) -> Self {
        let listener = TcpListener::bind((ip, 0)).unwrap();
        let at = listener.local_addr().unwrap();
        let client = TcpStream::connect(at).unwrap();
        let from = client.local_addr().unwrap();
        let (server, _) = listener.accept().unwrap();
        for end in [&client, &server] {
            end.set_read_timeout(Some(PATIENCE)).unwrap();
        }
        let mut object = EbpfLoader::new().load_file(CHANCE).unwrap();
        verify(object.program_mut(PROGRAM).unwrap()).unwrap();
        let key = ProxiedKey { address: ip.into(), port: Be16(at.port()), protocol: TCP, spare: 0 };
        let mut proxied_at: HashMap<_, [u8; ProxiedKey::SIZE], [u8; Proxied::SIZE]> =
            object.map_mut("proxied_at").unwrap().try_into().unwrap();
        let key: [u8; ProxiedKey::SIZE] = bytes(&key);
        let proxied: [u8; Proxied::SIZE] = bytes(&Proxied { peer: OTHER });
        proxied_at.insert(key, proxied, 0).unwrap();
        let mut peers: Array<_, [u8; Peer::SIZE]> = object.map_mut("peers").unwrap().try_into().unwrap();
        let peer =
            Peer { until: u64::MAX, ifindex: INTERFACE, mac: [2; 6], own_mac: [4; 6], ..Peer::default() };
        let peer: [u8; Peer::SIZE] = bytes(&peer);
        peers.set(OTHER, peer, 0).unwrap();
        Self { object, at, from, client, server }
    }

    /// What the program says of a frame.
    fn verdict(&self, mut frame: Vec<u8>) -> u32 {
        // To the loopback interface's address: a program is run there.
        frame[..6].fill(0);
        let mut room = vec![0; frame.len() + 256];
        let mut options = TestRunOptions::new();
        options.data_in = Some(&frame);
        options.data_out = Some(&mut room);
        let program: &SchedClassifier = self.object.program(PROGRAM).unwrap().try_into().unwrap();
        program.test_run(options).unwrap().return_value
    }

    /// What it says of the client's segment with these flags and numbers.
    fn segment(&self, flags: u8, [sequence, acknowledgement]: [u32; 2]) -> u32 {
        let mut frame = frame(self.from, self.at, TCP, flags);
        let at = if self.at.is_ipv4() { 14 + 20 } else { 14 + 40 };
        frame[at + 4..at + 8].copy_from_slice(&sequence.to_be_bytes());
        frame[at + 8..at + 12].copy_from_slice(&acknowledgement.to_be_bytes());
        self.verdict(frame)
    }

    /// What it says of a router's word that a packet to the client was too large.
    fn error(&self) -> u32 {
        let quoted = frame(self.at, self.from, TCP, ACK);
        let mut frame = frame(self.from, self.at, TCP, ACK);
        // Where the header ends, where it says what follows, and that that is ICMP; and the error's type and code.
        let (end, at, protocol, kind) =
            if self.at.is_ipv4() { (14 + 20, 14 + 9, 1, [3, 4]) } else { (14 + 40, 14 + 6, 58, [2, 0]) };
        frame.truncate(end);
        frame[at] = protocol;
        frame.extend(kind);
        frame.extend([0, 0, 0, 0, 5, 20]);
        frame.extend(&quoted[14..]);
        self.verdict(frame)
    }

    /// The server's end is closed first.
    fn close_first(&mut self) {
        self.server.shutdown(Shutdown::Write).unwrap();
        assert_eq!(self.client.read(&mut [0]).unwrap(), 0, "the client hears of it");
    }

    /// Then the client's: the server's is left in TIME_WAIT.
    fn close(&mut self) {
        self.client.shutdown(Shutdown::Write).unwrap();
        assert_eq!(self.server.read(&mut [0]).unwrap(), 0, "the server hears of it");
    }
}

/// All that is no beginning.
const KINDS: [u8; 3] = [ACK, FIN | ACK, RST | ACK];

fn is_the_others(scene: &Scene, numbers: [u32; 2]) {
    for flags in KINDS {
        assert_eq!(scene.segment(flags, numbers), TC_REDIRECT, "{} {flags} {numbers:?}", scene.at);
    }
}

fn is_the_stacks(scene: &Scene, numbers: [u32; 2]) {
    for flags in KINDS {
        assert_eq!(scene.segment(flags, numbers), TC_PASS, "{} {flags} {numbers:?}", scene.at);
    }
}

fn on_each_family(test: impl Fn(Scene) + Send + Sync) {
    with_clients(|| {
        for ip in [IpAddr::from(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()] {
            test(Scene::begin(ip));
        }
    })
    .unwrap();
}

#[test]
fn what_ends_while_the_other_node_may_have_connections_is_known_by_its_numbers() {
    on_each_family(|mut scene| {
        is_the_stacks(&scene, [77, 77]);
        scene.close_first();
        is_the_stacks(&scene, NUMBERS);
        assert_eq!(scene.error(), TC_PASS);
        scene.close();
        let [sequence, acknowledgement] = NUMBERS;
        is_the_stacks(&scene, NUMBERS);
        is_the_stacks(&scene, [sequence.wrapping_sub(NEAR), acknowledgement.wrapping_add(NEAR)]);
        for other in [
            [sequence.wrapping_add(FAR), acknowledgement],
            [sequence.wrapping_sub(FAR + 1), acknowledgement],
            [sequence, acknowledgement.wrapping_add(FAR)],
            [sequence, acknowledgement.wrapping_sub(FAR + 1)],
        ] {
            is_the_others(&scene, other);
        }
        // The stack begins a connection anew, or is told to by what answers its acknowledgement; an error it would not look at.
        assert_eq!(scene.segment(SYN, [7, 0]), TC_PASS);
        assert_eq!(scene.segment(RST, [sequence, 0]), TC_PASS);
        assert_eq!(scene.segment(RST, [sequence.wrapping_add(FAR), 0]), TC_REDIRECT);
        assert_eq!(scene.error(), TC_REDIRECT);
    });
}

#[test]
fn a_reset_that_acknowledges_nothing_leaves_what_is_known_of_an_end() {
    on_each_family(|mut scene| {
        scene.close_first();
        is_the_stacks(&scene, NUMBERS);
        assert_eq!(scene.segment(RST, [7, 0]), TC_PASS);
        scene.close();
        is_the_stacks(&scene, NUMBERS);
        assert_eq!(scene.segment(RST, [NUMBERS[0], 0]), TC_PASS);
    });
}

#[test]
fn what_ended_before_takes_no_segment_of_the_clients_next_connection() {
    on_each_family(|mut scene| {
        scene.close_first();
        scene.close();
        is_the_others(&scene, NUMBERS);
        assert_eq!(scene.segment(SYN, NUMBERS), TC_PASS);
        assert_eq!(scene.segment(RST, [NUMBERS[0], 0]), TC_PASS);
        assert_eq!(scene.error(), TC_REDIRECT);
    });
}

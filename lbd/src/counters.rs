//! Counters that cost the request path no shared cache line: each worker writes its own shard, a reader adds them up.

use std::sync::atomic::{AtomicU64, Ordering};

use lbd_core::histogram::{Counts, Durations, Histogram, SizeSample, Sizes};
use lbd_core::http::auth::Denied;
use lbd_core::http::conduct::Offence;
use lbd_core::http::framing::Fault;
use lbd_core::udp_sessions::{DatagramDrop, SessionEnd};

/// A number with one writer and any number of readers.
///
/// With a single writer a load and a store are enough; that is why each worker has its own.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    /// Adds `count`. Only ever called by the shard's one writer.
    pub(crate) fn add(&self, count: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(count), Ordering::Relaxed);
    }

    /// Subtracts one, for counts of what is open now. Only ever called by the shard's one writer.
    pub(crate) fn subtract_one(&self) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_sub(1), Ordering::Relaxed);
    }

    /// The number now.
    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// One shard for each worker, each on cache lines of its own.
#[derive(Debug)]
pub(crate) struct Sharded<T>(Box<[Shard<T>]>);

/// Two lines of 64 bytes, because the processor fetches them in pairs.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Shard<T>(T);

impl<T: Default> Sharded<T> {
    /// A shard for each of `workers` workers.
    pub(crate) fn new(workers: usize) -> Self {
        Self((0..workers).map(|_| Shard::default()).collect())
    }

    /// The shard of one worker.
    pub(crate) fn of(&self, worker: usize) -> &T {
        &self.0[worker].0
    }

    /// The sum over all workers of the counter that `pick` names.
    pub(crate) fn sum(&self, pick: impl Fn(&T) -> &Counter) -> u64 {
        self.0.iter().fold(0, |sum, shard| sum.wrapping_add(pick(&shard.0).get()))
    }

    /// All workers' counts of the histogram that `pick` names.
    pub(crate) fn counts<const BUCKETS: usize>(
        &self,
        pick: impl Fn(&T) -> &Histogram<BUCKETS>,
    ) -> Counts<BUCKETS> {
        self.0.iter().fold(Counts::default(), |sum, shard| sum.with(&pick(&shard.0).counts()))
    }
}

/// What a worker counts for a service.
#[derive(Debug, Default)]
pub(crate) struct ServiceCounters {
    /// Connections admitted.
    pub(crate) admitted: Counter,
    /// Connections reset before they had a target, by [`crate::l4::Refusal`].
    pub(crate) refusals: [Counter; crate::l4::Refusal::COUNT],
    /// Connections that had to wait for a target with room.
    pub(crate) queued: Counter,
    /// Connects tried again on another target.
    pub(crate) retries: Counter,
    /// Connects that failed for want of something on this host, of which no target knows.
    pub(crate) local_errors: Counter,
    /// Tries of a target that is not healthy, because none was.
    pub(crate) unhealthy_tries: Counter,
    /// Bytes from clients to targets.
    pub(crate) bytes_to_target: Counter,
    /// Bytes from targets to clients.
    pub(crate) bytes_to_client: Counter,
    /// Bytes of both directions that were not copied but stayed in the kernel.
    pub(crate) bytes_spliced: Counter,
    /// How relayed connections ended, by [`crate::l4::End`].
    pub(crate) ends: [Counter; crate::l4::End::COUNT],
    /// From acceptance to the end, of connections that had a target.
    pub(crate) durations: Durations,
    /// Records that were not in the access log's sample.
    pub(crate) log_left_out: Counter,
    /// What only a `udp` service has.
    pub(crate) udp: UdpCounters,
    /// What only an `http` service has.
    pub(crate) http: HttpCounters,
}

/// What a worker counts for an `http` service beside what connections have in common.
#[derive(Debug, Default)]
pub(crate) struct HttpCounters {
    /// Requests answered, by the first digit of the status, from 2 on.
    pub(crate) answers: [Counter; 4],
    /// Of these, answers that no target gave.
    pub(crate) own_answers: Counter,
    /// Requests that cannot be understood, by [`Fault`].
    pub(crate) faults: [Counter; Fault::COUNT],
    /// Tandem's own cookies that did not count, by [`crate::l7::Rejected`].
    pub(crate) cookies: [Counter; crate::l7::Rejected::COUNT],
    /// Requests that were not let in, by [`Denied`].
    pub(crate) denied: [Counter; Denied::COUNT],
    /// Requests over `rate`.
    pub(crate) over_rate: Counter,
    /// Requests whose answer did not come to its end, by [`crate::l7::Cut`].
    pub(crate) cuts: [Counter; crate::l7::Cut::COUNT],
    /// Requests sent to a target again.
    pub(crate) resent: Counter,
    /// Requests not sent again because too many had been.
    pub(crate) resends_refused: Counter,
    /// Requests sent on a kept connection.
    pub(crate) reused: Counter,
    /// Connections that became tunnels.
    pub(crate) tunnels: Counter,
    /// Answers that were compressed.
    pub(crate) compressed: Counter,
    /// Answers that were not because too many were at the time.
    pub(crate) compressions_refused: Counter,
    /// Bytes that were compressed, and what they became.
    pub(crate) compressed_bytes: [Counter; 2],
    /// Clients' connections of HTTP/2.
    pub(crate) http2_connections: Counter,
    /// Those of them that were closed for what their clients did, by [`Offence`].
    pub(crate) http2_offences: [Counter; Offence::COUNT],
    /// From a request's head to the end of its answer, or to the answer's head where that opens a tunnel.
    pub(crate) durations: Durations,
    /// What those had in them that a target has answered.
    pub(crate) bodies: BodySizes,
    /// What only one with TLS has.
    pub(crate) tls: TlsCounters,
}

/// What a worker counts for an `http` service with TLS.
#[derive(Debug, Default)]
pub(crate) struct TlsCounters {
    /// Handshakes: of TLS 1.2 and 1.3, and of each in full and as the continuation of a session.
    pub(crate) handshakes: [[Counter; 2]; 2],
    /// Handshakes that failed, by [`crate::tls::Failure`].
    pub(crate) failures: [Counter; crate::tls::Failure::COUNT],
}

/// What a worker counts for a `udp` service beside what connections and sessions have in common.
#[derive(Debug, Default)]
pub(crate) struct UdpCounters {
    /// Datagrams from clients to targets.
    pub(crate) datagrams_to_target: Counter,
    /// Datagrams from targets to clients.
    pub(crate) datagrams_to_client: Counter,
    /// Datagrams that were not passed on, by [`DatagramDrop`].
    pub(crate) drops: [Counter; DatagramDrop::COUNT],
    /// Sessions that were given another target.
    pub(crate) moved: Counter,
    /// How sessions ended, by [`SessionEnd`].
    pub(crate) ends: [Counter; SessionEnd::COUNT],
    /// Sockets for sessions that could not be opened: no free ports, files or memory.
    pub(crate) socket_errors: Counter,
}

/// What a worker counts for a target.
#[derive(Debug, Default)]
pub(crate) struct TargetCounters {
    /// Connections made.
    pub(crate) connected: Counter,
    /// Connections open now.
    pub(crate) open: Counter,
    /// Connects that failed.
    pub(crate) connect_errors: Counter,
    /// Connects that took longer than `timeout.connect`.
    pub(crate) connect_timeouts: Counter,
    /// Connections on which there was no TLS handshake.
    pub(crate) tls_errors: Counter,
    /// Of the failures above, those after which another target was tried.
    pub(crate) retried: Counter,
    /// Connections that the target reset.
    pub(crate) resets: Counter,
    /// Connections whose target was not heard of any more.
    pub(crate) vanished: Counter,
    /// Bytes from clients.
    pub(crate) bytes_to_target: Counter,
    /// Bytes for clients.
    pub(crate) bytes_to_client: Counter,
    /// From the start of each connect until the connection was made; what came before and a TLS handshake are no part of it.
    pub(crate) connect_times: Durations,
    /// From then until the target's first byte.
    pub(crate) first_byte_times: Durations,
    /// Requests that it answered, by the first digit of the status, from 2 on.
    pub(crate) answers: [Counter; 4],
    /// From a request's connection to the end of its answer.
    pub(crate) request_times: Durations,
    /// What the requests that it answered had in them.
    pub(crate) bodies: BodySizes,
    /// Connections without a request that wait for the next one.
    pub(crate) kept: Counter,
    /// Requests sent on a connection that had served others.
    pub(crate) reused: Counter,
    /// Requests sent again, here or to another one, because this one ended the connection before an answer came.
    pub(crate) resent: Counter,
}

common::named! {
    /// Why a request was tried once more.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(crate) enum Again {
        /// The target could not be connected.
        Connect => "connect",
        /// It has ended the connection before an answer came, or done nothing with the request.
        Resent => "resent",
    }
}

/// What requests have moved, and how often they were tried again.
#[derive(Debug, Default)]
pub(crate) struct Effort {
    /// Bytes to targets and to clients.
    pub(crate) bytes: [Counter; 2],
    /// Further tries, by [`Again`].
    pub(crate) again: [Counter; Again::COUNT],
}

impl Effort {
    /// Adds what one request has come to.
    pub(crate) fn add(&self, bytes: [u64; 2], again: [u64; Again::COUNT]) {
        for (counter, count) in self.bytes.iter().zip(bytes).chain(self.again.iter().zip(again)) {
            counter.add(count);
        }
    }
}

/// How long the bodies of requests that a target has answered were, and those of the answers, each as it came: without heads and framing, and
/// before it was compressed. What goes through a tunnel is no body.
#[derive(Debug, Default)]
pub(crate) struct BodySizes(pub(crate) [Sizes; 2]);

impl BodySizes {
    /// Counts those of one request: what went to the target, and to the client.
    pub(crate) fn record(&self, sizes: [SizeSample; 2]) {
        for (histogram, size) in self.0.iter().zip(sizes) {
            histogram.record(size);
        }
    }
}

/// What a worker counts for the requests of an `http` service that meet one of its rules, or none.
#[derive(Debug, Default)]
pub(crate) struct RuleCounters {
    /// Requests answered, by the first digit of the status, from 2 on.
    pub(crate) answers: [Counter; 4],
    /// What they have moved, also those that were not answered.
    pub(crate) effort: Effort,
    /// Requests sent on a connection that had served others.
    pub(crate) reused: Counter,
    /// From a request's head to the end of its answer.
    pub(crate) durations: Durations,
    /// What those had in them that a target has answered.
    pub(crate) bodies: BodySizes,
}

/// What a worker counts for a target group: but for the first, HTTP requests only, also those of targets that have left it.
#[derive(Debug, Default)]
pub(crate) struct GroupCounters {
    /// How long those who had to wait for a target with room did so, whatever came of it.
    pub(crate) queue_times: Durations,
    /// Requests that one of its targets has answered, by the first digit of the status, from 2 on.
    pub(crate) answers: [Counter; 4],
    /// What the requests for it have moved, also those that were not answered.
    pub(crate) effort: Effort,
    /// Requests sent on a connection that had served others.
    pub(crate) reused: Counter,
    /// From a request's head to the end of its answer.
    pub(crate) durations: Durations,
    /// What those had in them that one of its targets has answered.
    pub(crate) bodies: BodySizes,
    /// Requests for which no target was to be had.
    pub(crate) unserved: Counter,
}

/// What a worker counts for itself.
#[derive(Debug, Default)]
pub(crate) struct WorkerCounters {
    /// Calls of accept that failed.
    pub(crate) accept_errors: Counter,
    /// Client connections open now.
    pub(crate) open: Counter,
    /// Sockets it accepts on.
    pub(crate) listening: Counter,
}

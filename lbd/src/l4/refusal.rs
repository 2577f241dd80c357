//! Why a client got no target.

/// Why a connection (or, where it says so, a session) was not served. Each is counted by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// `access` does not let the client in.
    Access,
    /// As many as `limits.max_connections` were open.
    MaxConnections,
    /// As many as `limits.max_connections_per_source` were open from this client.
    MaxConnectionsPerSource,
    /// More came than `rate` allows.
    Rate,
    /// What came from a trusted proxy was not a PROXY header.
    ProxyHeader,
    /// With rules for server names: what came was not a TLS client's hello.
    ClientHello,
    /// The PROXY header or the hello had not come within `timeout.header`.
    HeaderTimeout,
    /// The client left before it had a target.
    ClientGone,
    /// Every target had its `max_connections`, and there is no queue.
    TargetsFull,
    /// Every target had its `max_connections`, and the queue was full.
    QueueFull,
    /// No target had room within `queue.timeout`.
    QueueTimeout,
    /// This host had no file, port or memory left for a connection to a target.
    Local,
    /// The last target that was tried refused the connection, or could not be reached.
    ConnectFailed,
    /// The last target that was tried did not answer within `timeout.connect`.
    ConnectTimeout,
    /// No target may be used.
    NoTarget,
}

impl Refusal {
    /// How many there are.
    pub(crate) const COUNT: usize = 15;

    /// All of them, in the order of [`Self::index`].
    pub(crate) const ALL: [Self; Self::COUNT] = [
        Self::Access,
        Self::MaxConnections,
        Self::MaxConnectionsPerSource,
        Self::Rate,
        Self::ProxyHeader,
        Self::ClientHello,
        Self::HeaderTimeout,
        Self::ClientGone,
        Self::TargetsFull,
        Self::QueueFull,
        Self::QueueTimeout,
        Self::Local,
        Self::ConnectFailed,
        Self::ConnectTimeout,
        Self::NoTarget,
    ];

    /// Its place in [`Self::ALL`].
    pub(crate) const fn index(self) -> usize {
        self as usize
    }

    /// Its name in the metrics, in the API and in the access log.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Access => "access",
            Self::MaxConnections => "max_connections",
            Self::MaxConnectionsPerSource => "max_connections_per_source",
            Self::Rate => "rate",
            Self::ProxyHeader => "proxy_header",
            Self::ClientHello => "client_hello",
            Self::HeaderTimeout => "header_timeout",
            Self::ClientGone => "client_gone",
            Self::TargetsFull => "targets_full",
            Self::QueueFull => "queue_full",
            Self::QueueTimeout => "queue_timeout",
            Self::Local => "local",
            Self::ConnectFailed => "connect_failed",
            Self::ConnectTimeout => "connect_timeout",
            Self::NoTarget => "no_target",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_has_its_place_and_its_name() {
        for (index, refusal) in Refusal::ALL.into_iter().enumerate() {
            assert_eq!(refusal.index(), index);
            let same_name = Refusal::ALL.iter().filter(|other| other.name() == refusal.name());
            assert_eq!(same_name.count(), 1);
        }
    }
}

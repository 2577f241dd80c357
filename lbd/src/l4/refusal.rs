//! Why a client got no target.

common::named! {
    /// Why a connection (or, where it says so, a session) was not served. Each is counted by itself.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(crate) enum Refusal {
        /// `access` does not let the client in.
        Access => "access",
        /// As many as `limits.max_connections` were open.
        MaxConnections => "max_connections",
        /// As many as `limits.max_connections_per_source` were open from this client.
        MaxConnectionsPerSource => "max_connections_per_source",
        /// More came than `rate` allows.
        Rate => "rate",
        /// What came from a trusted proxy was not a PROXY header.
        ProxyHeader => "proxy_header",
        /// With rules for server names: what came was not a TLS client's hello.
        ClientHello => "client_hello",
        /// The PROXY header or the hello had not come within `timeout.header`.
        HeaderTimeout => "header_timeout",
        /// The client left before it had a target.
        ClientGone => "client_gone",
        /// Every target had its `max_connections`, and there is no queue.
        TargetsFull => "targets_full",
        /// Every target had its `max_connections`, and the queue was full.
        QueueFull => "queue_full",
        /// No target had room within `queue.timeout`.
        QueueTimeout => "queue_timeout",
        /// This host had no file, port or memory left for a connection to a target.
        Local => "local",
        /// The last target that was tried refused the connection, or could not be reached.
        ConnectFailed => "connect_failed",
        /// The last target that was tried did not answer within `timeout.connect`.
        ConnectTimeout => "connect_timeout",
        /// No target may be used.
        NoTarget => "no_target",
    }
}

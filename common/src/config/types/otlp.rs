//! Where spans of the requests of a service of `mode = "http"` are sent.

use std::fmt;

use super::SampleShare;

/// `otlp` of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Otlp {
    /// The collector.
    pub endpoint: HttpEndpoint,
    /// Of how many of all traces a span is sent, 0.01 by default. One that a proxy in `trust_forwarded` has begun is as that has it.
    pub sample: SampleShare,
    /// What the spans say they are of (`service.name`); the service's name by default.
    pub service_name: String,
}

/// `http://AUTHORITY/PATH`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HttpEndpoint {
    /// A name or an address, with a port.
    pub authority: String,
    /// The path, with its query if there is one.
    pub path: String,
}

impl fmt::Display for HttpEndpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}{}", self.authority, self.path)
    }
}

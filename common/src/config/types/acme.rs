//! Certificates that are ordered.

use std::path::PathBuf;

use super::FileAt;
use crate::time::Duration;

/// `[acme]`: where certificates are ordered (RFC 8555), and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Acme {
    /// The authority's directory: an address that begins with `https://`; [`Self::DIRECTORY`] by default.
    pub directory: String,
    /// Whom the authority may write to: addresses that begin with `mailto:`; may be none.
    pub contact: Vec<String>,
    /// PEM: who may have signed the directory's certificate; none for the host's authorities.
    pub roots: Option<FileAt>,
    /// How long before its end a certificate is renewed: 1 h to 30 days; none for a third of its life.
    pub renew_before: Option<Duration>,
    /// Where the authority's requests to port 80 arrive; 80 by default.
    pub http_port: u16,
    /// Where the account's key and certificates are kept; [`Self::FOLDER`] by default.
    pub folder: PathBuf,
}

impl Acme {
    /// The directory when the file does not say: Let's Encrypt's.
    pub const DIRECTORY: &str = "https://acme-v02.api.letsencrypt.org/directory";

    /// The folder when the file does not say.
    pub const FOLDER: &str = "/var/lib/tandem/acme";

    /// Names in one certificate, at most: more are refused by most authorities.
    pub const NAMES_MAX: usize = 100;

    /// Certificates that are ordered, at most: as many as are told to the other node.
    pub const CERTIFICATES_MAX: usize = 200;
}

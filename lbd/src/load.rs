//! Reading a configuration together with all that it names: certificates, users, keys, pages. What is wrong with a file is told with the place
//! in the configuration that names it.

use std::path::Path;

use common::config::{Config, ConfigError, load_and_inspect};
use common::key::PairKey;

use crate::site_files::SiteFiles;
use crate::tls::{self, TlsSet};

/// A configuration that can be used.
pub(crate) struct Loaded {
    /// What the file says.
    pub(crate) config: Config,
    /// The TLS of its services and groups.
    pub(crate) tls: TlsSet,
    /// The other files of its `http` services.
    pub(crate) files: SiteFiles,
}

/// Reads a configuration. `secret` is what tickets of TLS are made with where there is no pair's key; what is the same as `before` is kept.
/// What is wrong and can be used all the same is in the log.
///
/// # Errors
/// Everything that is wrong and cannot.
pub(crate) fn load(file: &Path, secret: &PairKey, before: &TlsSet) -> Result<Loaded, ConfigError> {
    let (config, (tls, files)) = load_and_inspect(file, |config| {
        let (tls, mut wrong) = tls::read(config, secret, before);
        let files = SiteFiles::read(config, &mut wrong);
        ((tls, files), wrong)
    })?;
    Ok(Loaded { config, tls, files })
}

/// The same for somebody who wants to know everything that is wrong, and which certificates expire soon.
///
/// # Errors
/// Everything that is wrong.
pub(crate) fn check(file: &Path) -> Result<(Config, Vec<String>), ConfigError> {
    load_and_inspect(file, |config| {
        let (notes, mut wrong) = tls::examine(config);
        SiteFiles::read(config, &mut wrong);
        (notes, wrong)
    })
}

//! Reading the files: the only input and output of this crate.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::{Api, Config, Diagnostics, FileAt, Pair, Target, parse, parse_targets};
use crate::key::{KeyError, PairKey};

/// A larger configuration file is refused.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// More of a key file is not read; it is then no key anyway.
const KEY_BYTES_MAX: u64 = 4096;
/// The same of a file with a token.
const TOKEN_BYTES_MAX: u64 = 4096;

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read, is no UTF-8, or is larger than 1 MiB.
    #[error("cannot read the configuration file {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What failed.
        source: io::Error,
    },
    /// The same for a file of targets.
    #[error("cannot read the file of targets {}: {source}", path.display())]
    ReadTargets {
        /// The file.
        path: PathBuf,
        /// What failed.
        source: io::Error,
    },
    /// The file has errors, all of them in here.
    #[error("{0}")]
    Invalid(Diagnostics),
}

/// Why there is no token although `api.token_file` names a file.
#[derive(Debug, thiserror::Error)]
#[error("cannot read the API's token file {}: {source}", path.display())]
pub struct TokenFileError {
    /// The file.
    path: PathBuf,
    /// What failed.
    source: io::Error,
}

/// Why there is no key although `pair.key_file` names a file.
#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    /// It cannot be read.
    #[error("cannot read the pair's key file {}: {source}; write one with `vrrpd keygen --out {}` and copy it to the other node", path.display(), path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What failed.
        source: io::Error,
    },
    /// Others than its owner may use it.
    #[error("the pair's key file {} can be used by others than its owner (mode {mode:04o}): run `chmod 600 {}`", path.display(), path.display())]
    Permissions {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// It holds no key.
    #[error("the pair's key file {} holds no key: {source}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong with the text.
        source: KeyError,
    },
}

/// Reads and checks a configuration file. Relative `key_file` and `token_file` are taken from the file's folder.
///
/// # Errors
///
/// When the file cannot be read, or has errors; then all of them.
pub fn load(path: &Path) -> Result<Config, ConfigError> {
    let text = read_text(path, FILE_BYTES_MAX)
        .map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
    parse(&text, path).map_err(ConfigError::Invalid)
}

/// The same, and has `inspect` look at the files that the configuration names, which is not the configuration's own matter; what it finds
/// wrong with them is told like every other mistake, with the place that names the file.
///
/// # Errors
///
/// When the file cannot be read or has errors, or `inspect` finds some; then all of them.
pub fn load_and_inspect<T>(
    path: &Path,
    inspect: impl FnOnce(&Config) -> (T, Vec<(FileAt, String)>),
) -> Result<(Config, T), ConfigError> {
    let text = read_text(path, FILE_BYTES_MAX)
        .map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
    let config = parse(&text, path).map_err(ConfigError::Invalid)?;
    let (inspected, wrong) = inspect(&config);
    let wrong = wrong.iter().map(|(file, why)| (file, why.clone()));
    match Diagnostics::of_files(path, &text, wrong) {
        None => Ok((config, inspected)),
        Some(diagnostics) => Err(ConfigError::Invalid(diagnostics)),
    }
}

/// Reads and checks a file of targets, as `discover = { file = "..." }` names one.
///
/// # Errors
///
/// When the file cannot be read, or has errors; then all of them.
pub fn load_targets(path: &Path) -> Result<Vec<Target>, ConfigError> {
    let text = read_text(path, FILE_BYTES_MAX)
        .map_err(|source| ConfigError::ReadTargets { path: path.to_owned(), source })?;
    parse_targets(&text, path).map_err(ConfigError::Invalid)
}

/// Reads the pair's key, if the configuration names a file for it.
///
/// # Errors
///
/// When the file cannot be read, may be used by others than its owner, or holds no key.
pub fn load_key(pair: &Pair) -> Result<Option<PairKey>, KeyFileError> {
    let Some(path) = &pair.key_file else { return Ok(None) };
    let unreadable = |source| KeyFileError::Read { path: path.clone(), source };
    let mode = fs::metadata(path).map_err(unreadable)?.permissions().mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(KeyFileError::Permissions { path: path.clone(), mode });
    }
    let text = read_text(path, KEY_BYTES_MAX).map_err(unreadable)?;
    match PairKey::parse(&text) {
        Ok(key) => Ok(Some(key)),
        Err(source) => Err(KeyFileError::Content { path: path.clone(), source }),
    }
}

/// What both daemons' APIs ask for as the bearer's token of whoever changes something over TCP: the first line of its file, without the blanks around it.
/// `None` if the configuration names no file.
///
/// # Errors
/// When the file cannot be read, or its first line is empty.
pub fn load_token(api: &Api) -> Result<Option<String>, TokenFileError> {
    let Some(path) = &api.token_file else { return Ok(None) };
    let token = read_text(path, TOKEN_BYTES_MAX).and_then(|text| {
        match text.lines().next().unwrap_or_default().trim() {
            "" => Err(io::Error::other(
                "its first line is empty; write a secret of 16 or more characters there",
            )),
            token => Ok(token.to_owned()),
        }
    });
    token.map(Some).map_err(|source| TokenFileError { path: path.clone(), source })
}

/// The text of a file that is a regular one, of at most `bytes_max` bytes.
///
/// # Errors
/// When it cannot be read, is something else, larger, or no UTF-8.
pub fn read_text(path: &Path, bytes_max: u64) -> io::Result<String> {
    String::from_utf8(read_bytes(path, bytes_max)?)
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "it is not UTF-8"))
}

/// The bytes of such a file.
///
/// # Errors
/// When it cannot be read, is something else, or larger.
pub fn read_bytes(path: &Path, bytes_max: u64) -> io::Result<Vec<u8>> {
    // Opening a pipe would wait for its other end.
    if !fs::metadata(path)?.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    let mut bytes = Vec::new();
    File::open(path)?.take(bytes_max + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > bytes_max {
        return Err(io::Error::other(format!("it is larger than {bytes_max} bytes")));
    }
    Ok(bytes)
}

//! The files that services of `mode = "http"` name beside certificates: users, keys of tokens, pages for errors. Read with the configuration, and never
//! while a request waits.

use std::collections::HashMap;
use std::fmt::Display;
use std::path::{Path, PathBuf};

use common::config::{Config, FileAt, HttpAuth, read_text};
use lbd_core::http::auth::basic::Users;

use crate::token_keys::TokenKeys;

/// The largest file of users or keys, in bytes.
const SECRETS_BYTES_MAX: u64 = 4 << 20;

/// The largest page: it is sent from memory, as a whole.
const PAGE_BYTES_MAX: u64 = 64 << 10;

/// The contents of all such files, by path.
#[derive(Debug, Default)]
pub(crate) struct SiteFiles {
    users: HashMap<PathBuf, Users>,
    keys: HashMap<PathBuf, TokenKeys>,
    pages: HashMap<PathBuf, Page>,
}

/// A page for an error.
#[derive(Debug)]
pub(crate) struct Page {
    /// Its type, as the file's name says.
    pub(crate) content_type: &'static str,
    /// Its text.
    pub(crate) text: String,
}

impl SiteFiles {
    /// Reads what a configuration names; adds what cannot be used to `wrong`.
    pub(crate) fn read(config: &Config, wrong: &mut Vec<(FileAt, String)>) -> Self {
        let mut files = Self::default();
        for http in config.services.iter().filter_map(|service| service.http.as_ref()) {
            for auth in http.auths() {
                match auth {
                    HttpAuth::Nobody => {}
                    HttpAuth::Basic(basic) => enter(&mut files.users, &basic.users, wrong, users),
                    HttpAuth::Jwt(jwt) => enter(&mut files.keys, &jwt.keys, wrong, keys),
                }
            }
            for (_, file) in &http.error_pages {
                enter(&mut files.pages, file, wrong, page);
            }
        }
        files
    }

    /// Those who are let in by a file of users.
    pub(crate) fn users(&self, path: &Path) -> Option<&Users> {
        self.users.get(path)
    }

    /// The keys of a file.
    pub(crate) fn keys(&self, path: &Path) -> Option<&TokenKeys> {
        self.keys.get(path)
    }

    /// A page.
    pub(crate) fn page(&self, path: &Path) -> Option<&Page> {
        self.pages.get(path)
    }
}

/// Reads a file, unless it has been read for another place.
fn enter<T>(
    known: &mut HashMap<PathBuf, T>,
    file: &FileAt,
    wrong: &mut Vec<(FileAt, String)>,
    read: impl FnOnce(&Path) -> Result<T, String>,
) {
    if known.contains_key(&file.path) {
        return;
    }
    match read(&file.path) {
        Ok(contents) => {
            known.insert(file.path.clone(), contents);
        }
        Err(why) => wrong.push((file.clone(), why)),
    }
}

fn users(path: &Path) -> Result<Users, String> {
    Users::parse(&text(path, SECRETS_BYTES_MAX)?).map_err(|error| unusable(&error))
}

fn keys(path: &Path) -> Result<TokenKeys, String> {
    TokenKeys::parse(&text(path, SECRETS_BYTES_MAX)?).map_err(|error| unusable(&error))
}

fn page(path: &Path) -> Result<Page, String> {
    let content_type = match path.extension().and_then(|extension| extension.to_str()) {
        Some("html" | "htm") => "text/html; charset=utf-8",
        Some("json") => "application/json",
        Some("xml") => "application/xml",
        _ => "text/plain; charset=utf-8",
    };
    Ok(Page { content_type, text: text(path, PAGE_BYTES_MAX)? })
}

fn unusable(error: &dyn Display) -> String {
    format!("it cannot be used: {error}")
}

fn text(path: &Path, bytes_max: u64) -> Result<String, String> {
    read_text(path, bytes_max).map_err(|error| format!("cannot read it: {error}"))
}

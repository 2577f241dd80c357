//! `error_pages` of a service of `mode = "http"`, as written. Paths are not yet in the file's folder.

use super::reader::{At, Cursor};
use super::text;
use crate::config::diag::{Problems, quoted};
use crate::config::problem::Problem;

/// `{ STATUS = "file" }`.
pub(super) fn read(cursor: &Cursor<'_>, out: &mut Problems) -> Vec<(u16, At<String>)> {
    let Some(table) = cursor.table(out) else { return Vec::new() };
    let entries = table.entries();
    if entries.is_empty() {
        out.add(cursor.span(), Problem::Empty { key: cursor.key() });
    }
    let mut pages = Vec::new();
    for (status, file) in entries {
        let number = status.get_ref().parse().ok().filter(|number| (400..=599).contains(number));
        let Some(number) = number else {
            let (value, range) = (quoted(status.get_ref()), "a status from 400 to 599".to_owned());
            out.add(status.span(), Problem::OutOfRange { key: cursor.key(), value, range });
            continue;
        };
        pages.extend(text(&file, out).map(|file| (number, file)));
    }
    pages
}

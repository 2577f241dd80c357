//! What is kept on the disk: the account's key, and a bundle for each certificate. Files are for their owner only, and are whole or not there.

use std::ffi::OsStr;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use common::config::Acme;
use lbd_core::acme::Names;

use crate::tls::{fingerprint, read_file};

/// Bundles that are kept, those included that the configuration wants no longer: they are of use if it wants them again.
const BUNDLES_MAX: usize = 2 * Acme::CERTIFICATES_MAX;

/// Makes the folder, and sees whether something can be written there: before anything is ordered that would then be lost.
pub(super) fn prepare(folder: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    let probe = folder.join("probe");
    write_beside(&probe, b"")?;
    fs::remove_file(beside(&probe))
}

/// The file of the account with a directory.
pub(super) fn account_path(acme: &Acme) -> PathBuf {
    let hash = fingerprint(acme.directory.as_bytes());
    acme.folder.join(format!("account-{}.json", hash.get(..16).unwrap_or_default()))
}

/// The bytes of a file; none if there is none.
pub(super) fn read(path: &Path) -> io::Result<Option<Vec<u8>>> {
    match read_file(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Writes a file beside another one, whose place it is to take; answers where it is.
pub(super) fn write_beside(path: &Path, bytes: &[u8]) -> io::Result<PathBuf> {
    let fresh = beside(path);
    // One that was left half written, perhaps with other rights.
    remove(&fresh)?;
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&fresh)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    Ok(fresh)
}

/// Puts what [`write_beside`] has written in its place. Once it is there that is done; that a host which fails now may lose it is in the log.
pub(super) fn put_in_place(fresh: &Path, path: &Path) -> io::Result<()> {
    fs::rename(fresh, path)?;
    // The name is on the disk, too, once its folder is.
    let synced = path.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all());
    if let Err(error) = synced {
        tracing::warn!(file = %path.display(), %error, "a file may be lost if this host fails now: its folder cannot be synchronised");
    }
    Ok(())
}

/// Both at once.
pub(super) fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    put_in_place(&write_beside(path, bytes)?, path)
}

/// Removes a file that may be gone already.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Removes bundles that nobody wants, the oldest first, where there are too many. What is not called as ours are is none of ours.
pub(super) fn tidy(folder: &Path, is_wanted: impl Fn(&Path) -> bool) -> io::Result<()> {
    let mut bundles = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let (path, facts) = (entry.path(), entry.metadata()?);
        let is_named_so = path.file_stem().and_then(OsStr::to_str).is_some_and(Names::is_file_stem)
            && path.extension() == Some(OsStr::new("pem"));
        if is_named_so && facts.is_file() {
            bundles.push((facts.modified()?, path));
        }
    }
    bundles.sort();
    let too_many = bundles.len().saturating_sub(BUNDLES_MAX);
    for (_, path) in bundles.iter().filter(|(_, path)| !is_wanted(path)).take(too_many) {
        remove(path)?;
        tracing::info!(file = %path.display(), max = BUNDLES_MAX, "removed a certificate that the configuration does not want: there were too many");
    }
    Ok(())
}

fn beside(path: &Path) -> PathBuf {
    path.with_added_extension("new")
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;
    use std::time::{Duration, SystemTime};

    use super::*;

    fn folder(name: &str) -> PathBuf {
        let folder = std::env::temp_dir().join(format!("tandem-acme-{}-{name}", std::process::id()));
        drop(fs::remove_dir_all(&folder));
        folder
    }

    #[test]
    fn files_are_for_their_owner_and_replaced_as_a_whole() {
        let folder = folder("write").join("below");
        prepare(&folder).unwrap();
        prepare(&folder).unwrap();
        assert_eq!(fs::metadata(&folder).unwrap().permissions().mode() & 0o777, 0o700);
        let path = folder.join("a.pem");
        assert_eq!(read(&path).unwrap(), None);
        write(&path, b"one").unwrap();
        let fresh = write_beside(&path, b"two").unwrap();
        assert_eq!(read(&path).unwrap().as_deref(), Some(&b"one"[..]), "until the new one is there");
        assert_eq!(fs::metadata(&fresh).unwrap().permissions().mode() & 0o777, 0o600);
        put_in_place(&fresh, &path).unwrap();
        assert_eq!(read(&path).unwrap().as_deref(), Some(&b"two"[..]));
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 1, "nothing is left over");
        fs::remove_dir_all(folder.parent().unwrap()).unwrap();
    }

    #[test]
    fn only_what_is_too_much_and_wanted_by_nobody_is_removed() {
        let folder = folder("tidy");
        prepare(&folder).unwrap();
        let bundle = |number: usize| folder.join(format!("{number}.example-{number:016x}.pem"));
        for number in 0..BUNDLES_MAX + 5 {
            let file = File::create(bundle(number)).unwrap();
            // The last one is the oldest.
            let age = Duration::from_secs(60 * number as u64);
            file.set_modified(SystemTime::now() - age).unwrap();
        }
        let others = ["account.json", "fullchain.pem", "backup-2026.pem", "a-0123456789abcdef.key"];
        for other in others {
            let file = File::create(folder.join(other)).unwrap();
            file.set_modified(SystemTime::UNIX_EPOCH).unwrap();
        }
        let kept = bundle(BUNDLES_MAX + 3);
        tidy(&folder, |path| path == kept).unwrap();
        assert_eq!(fs::read_dir(&folder).unwrap().count(), BUNDLES_MAX + others.len());
        assert!(kept.exists() && others.iter().all(|other| folder.join(other).exists()));
        for number in 0..BUNDLES_MAX + 5 {
            let is_too_old = number >= BUNDLES_MAX - 1 && bundle(number) != kept;
            assert_eq!(bundle(number).exists(), !is_too_old, "{number}");
        }
        fs::remove_dir_all(folder).unwrap();
    }
}

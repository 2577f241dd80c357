//! What the daemon takes from the host: open files, its run directory, its place as the only one there.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::unistd::close;

/// Open files wanted: two for each of 500,000 connections.
const OPEN_FILES_WANTED: u64 = 1_048_576;

/// Open files that room is made for at the start; half a megabyte.
const OPEN_FILES_ROOM: u64 = 65_536;

/// The release of this program, as it stands in the file that runs: whoever tries nodes of two releases writes another one there.
pub(crate) fn release() -> &'static str {
    static RELEASE: &str = concat!("release of lbd ", env!("CARGO_PKG_VERSION"));
    // Read while it runs, not known while it is compiled.
    std::hint::black_box(RELEASE).strip_prefix("release of lbd ").unwrap_or_default()
}

/// Raises the limit of open files as far as permitted, and answers it.
pub(crate) fn raise_open_files() -> io::Result<u64> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    let wanted = OPEN_FILES_WANTED.max(hard);
    if soft >= wanted {
        return Ok(soft);
    }
    // Raising the hard limit takes a privilege; without it the hard limit is the most.
    if setrlimit(Resource::RLIMIT_NOFILE, wanted, wanted).is_ok() {
        return Ok(wanted);
    }
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    Ok(hard)
}

/// Makes room in the table of open files once, while there is one thread. A table that grows later makes every thread that
/// opens a file wait for the kernel's other processors (RCU), 10 ms and more, again at each doubling.
pub(crate) fn make_room_for_open_files(limit: u64) -> io::Result<()> {
    let last = i32::try_from(limit.min(OPEN_FILES_ROOM)).unwrap_or(i32::MAX) - 1;
    let copy = fcntl(io::stderr().as_fd(), FcntlArg::F_DUPFD_CLOEXEC(last))?;
    close(copy)?;
    Ok(())
}

/// Whether an error is this host's doing and says nothing about the target: too many open files, no memory, no free port.
pub(crate) fn is_local(error: &io::Error) -> bool {
    const LOCAL: [i32; 5] = [libc::EMFILE, libc::ENFILE, libc::ENOMEM, libc::ENOBUFS, libc::EADDRNOTAVAIL];
    error.raw_os_error().is_some_and(|code| LOCAL.contains(&code))
}

/// The lock that makes a run directory this process's own; the kernel frees it at the process's end, however it ends.
#[derive(Debug)]
pub(crate) struct RunDir {
    _lock: File,
}

impl RunDir {
    /// Takes the run directory, and makes it if it is missing.
    pub(crate) fn take(path: &Path) -> anyhow::Result<Self> {
        if !path.is_dir() {
            fs::create_dir_all(path)
                .with_context(|| format!("cannot make the run directory {}", path.display()))?;
        }
        let file = path.join("lbd.lock");
        let lock = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&file)
            .with_context(|| format!("cannot open {}", file.display()))?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { _lock: lock }),
            Err(fs::TryLockError::WouldBlock) => {
                bail!(
                    "another lbd is running with the run directory {}; stop it, or give this one another with --run-dir",
                    path.display()
                )
            }
            Err(fs::TryLockError::Error(error)) => {
                Err(error).with_context(|| format!("cannot lock {}", file.display()))
            }
        }
    }
}

/// The Unix socket's path in a run directory.
pub(crate) fn socket_path(run_dir: &Path) -> PathBuf {
    run_dir.join("lbd.sock")
}

/// Listens on the Unix socket for this user alone. A socket that a former life left behind is replaced; holding
/// [`RunDir`] says that it is one.
pub(crate) fn bind_unix(run_dir: &Path) -> io::Result<tokio::net::UnixListener> {
    let path = socket_path(run_dir);
    // Made under another name and then moved, so that it is never there with other permissions.
    let fresh = run_dir.join("lbd.sock.new");
    for old in [&fresh, &path] {
        match fs::remove_file(old) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    let listener = tokio::net::UnixListener::bind(&fresh)?;
    fs::set_permissions(&fresh, fs::Permissions::from_mode(0o600))?;
    fs::rename(&fresh, &path)?;
    Ok(listener)
}

/// This host's name up to the first dot, as `vrrpd` takes it.
pub(crate) fn host_name() -> Option<String> {
    let name = nix::unistd::gethostname().ok()?.into_string().ok()?;
    name.split('.').next().map(str::to_owned)
}

/// Tells systemd, if it started us.
pub(crate) fn notify(state: &[sd_notify::NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!(%error, "cannot tell systemd about our state");
    }
}

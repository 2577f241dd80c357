//! One network namespace: running programs and threads in it.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::clock::wait_for;
use super::error::{Context, LabError, Result};
use super::process;

/// A named network namespace, as `ip netns` knows it. Dropping it deletes it and kills what still runs in it.
#[derive(Debug)]
pub struct Namespace {
    name: String,
    network: Arc<File>,
    machine: Option<Machine>,
    gone: AtomicBool,
}

/// What makes a namespace a machine of its own beside its network: a mount namespace with its own `/sys` and an empty
/// BPF file system, held by a sleeping process.
#[derive(Debug)]
struct Machine {
    mounts: Arc<File>,
    holder: Mutex<Child>,
    holder_pid: i32,
}

impl Namespace {
    /// Creates the namespaces in one go.
    pub(crate) fn create_all(names: &[String]) -> Result<Vec<Self>> {
        let batch: String = names.iter().map(|name| format!("netns add {name}\n")).collect();
        let mut command = Command::new("ip");
        command.args(["-batch", "-"]);
        process::output(command, &batch)?;
        names.iter().map(|name| Self::open(name)).collect()
    }

    fn open(name: &str) -> Result<Self> {
        let path = PathBuf::from("/run/netns").join(name);
        let network = File::open(&path).doing(|| format!("opening the namespace {}", path.display()))?;
        let namespace = Self {
            name: name.to_owned(),
            network: Arc::new(network),
            machine: None,
            gone: AtomicBool::new(false),
        };
        namespace.quiet_ipv6()?;
        Ok(namespace)
    }

    /// Gives it its own `/sys` and an empty `/sys/fs/bpf`, where what is pinned stays until the machine is gone.
    /// Returns the process that holds them.
    pub(crate) fn become_machine(&mut self) -> Result<i32> {
        let doing = || format!("making {} a machine of its own", self.name);
        // `ip netns exec` gives the script a mount namespace with this network's /sys.
        let script = "mount -t bpf bpf /sys/fs/bpf && echo ready && exec sleep infinity";
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name, "sh", "-c", script]);
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = process::spawn(command).doing(doing)?;
        let mut line = String::new();
        if let Some(out) = child.stdout.take() {
            BufReader::new(out).read_line(&mut line).doing(doing)?;
        }
        if line.trim() != "ready" {
            child.kill().doing(doing)?;
            child.wait().doing(doing)?;
            return Err(LabError::Answer { asked: script.to_owned(), answer: line });
        }
        let holder_pid = child.id().cast_signed();
        let mounts = File::open(format!("/proc/{holder_pid}/ns/mnt")).doing(doing)?;
        self.machine = Some(Machine { mounts: Arc::new(mounts), holder: Mutex::new(child), holder_pid });
        Ok(holder_pid)
    }

    /// Its name for `ip netns`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A command that will run in this namespace (and its machine's mounts, when it is one).
    #[must_use]
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        let network = Arc::clone(&self.network);
        let mounts = self.machine.as_ref().map(|machine| Arc::clone(&machine.mounts));
        let enter = move || -> std::io::Result<()> {
            if let Some(mounts) = &mounts {
                setns(&**mounts, CloneFlags::CLONE_NEWNS)?;
            }
            setns(&*network, CloneFlags::CLONE_NEWNET)?;
            Ok(())
        };
        // SAFETY: the closure runs between fork and exec and makes system calls on descriptors opened before, no
        // allocation and no lock.
        unsafe {
            command.pre_exec(enter);
        }
        command
    }

    /// Runs a program to its end in this namespace and returns what it printed.
    ///
    /// # Errors
    /// [`LabError::Command`] when it does not exit with 0.
    pub fn run(&self, program: &str, arguments: &[&str]) -> Result<String> {
        self.run_with(program, arguments, "")
    }

    /// Like [`Namespace::run`], with text for its standard input.
    ///
    /// # Errors
    /// [`LabError::Command`] when it does not exit with 0.
    pub fn run_with(&self, program: &str, arguments: &[&str], stdin: &str) -> Result<String> {
        let mut command = self.command(program);
        command.args(arguments);
        process::output(command, stdin)
    }

    /// Runs one `ip` command in it, written as one string.
    ///
    /// # Errors
    /// [`LabError::Command`] when it does not exit with 0.
    pub fn ip(&self, arguments: &str) -> Result<String> {
        let mut command = Command::new("ip");
        command.args(["-n", &self.name]).args(arguments.split_whitespace());
        process::output(command, "")
    }

    /// Runs several `ip` commands, one per line, stopping at the first that fails.
    pub(crate) fn ip_batch(&self, lines: &str) -> Result<String> {
        let mut command = Command::new("ip");
        command.args(["-n", &self.name, "-batch", "-"]);
        process::output(command, lines)
    }

    /// Starts a thread of this process whose network is this namespace; `body` returns soon after the flag it is
    /// given turns true.
    ///
    /// # Errors
    /// [`LabError::Io`] when the thread cannot be made or cannot enter.
    pub fn worker<T: Send + 'static>(
        &self,
        name: &str,
        body: impl FnOnce(&AtomicBool) -> T + Send + 'static,
    ) -> Result<Worker<T>> {
        let network = Arc::clone(&self.network);
        let stop = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&stop);
        let (entered, reply) = sync_channel(1);
        let doing = || format!("starting the thread {name} in {}", self.name);
        let handle = thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || {
                let result = setns(&*network, CloneFlags::CLONE_NEWNET);
                drop(network);
                // Outside the namespace the body must not run.
                (entered.send(result).is_ok() && result.is_ok()).then(|| body(&seen))
            })
            .doing(doing)?;
        let outcome = reply.recv().map_err(std::io::Error::other).doing(doing)?;
        outcome.doing(doing)?;
        Ok(Worker { stop, handle: Some(handle) })
    }

    /// Runs `body` on a thread in this namespace and returns what it returns.
    ///
    /// # Errors
    /// [`LabError::Io`] when the namespace cannot be entered.
    ///
    /// # Panics
    /// When `body` does.
    pub fn inside<T: Send>(&self, body: impl FnOnce() -> T + Send) -> Result<T> {
        let network = &self.network;
        let outcome = thread::scope(|scope| {
            let handle = scope.spawn(move || setns(&**network, CloneFlags::CLONE_NEWNET).map(|()| body()));
            handle.join()
        });
        match outcome {
            Ok(value) => value.doing(|| format!("entering {}", self.name)),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }

    /// Runs `body` on a thread in this namespace and, where it is a machine, among its mounts: with its `/sys` and what is pinned there.
    ///
    /// # Errors
    /// [`LabError::Io`] when it cannot be entered.
    ///
    /// # Panics
    /// When `body` does.
    pub fn inside_machine<T: Send>(&self, body: impl FnOnce() -> T + Send) -> Result<T> {
        let mounts = self.machine.as_ref().map(|machine| Arc::clone(&machine.mounts));
        let enter = move || -> nix::Result<()> {
            let Some(mounts) = mounts else { return Ok(()) };
            // Threads share their root and working directory, which no other mount namespace has.
            unshare(CloneFlags::CLONE_FS)?;
            setns(&*mounts, CloneFlags::CLONE_NEWNS)
        };
        let doing = || format!("entering the mounts of {}", self.name);
        self.inside(|| enter().map(|()| body()).doing(doing))?
    }

    /// Sets kernel parameters of this namespace, each a path below `/proc/sys/net` with its value.
    ///
    /// # Errors
    /// [`LabError::Io`] when one cannot be written.
    pub fn sysctl(&self, settings: &[(&str, &str)]) -> Result<()> {
        self.inside(|| {
            for (key, value) in settings {
                let path = format!("/proc/sys/net/{key}");
                fs::write(&path, value).doing(|| format!("writing {value} to {path}"))?;
            }
            Ok(())
        })?
    }

    /// Has this host tell nobody of a shorter way, and heed nobody who does: all hosts are on one network, and where a test has some go by way of
    /// others, these are not to find that out.
    ///
    /// # Errors
    /// [`LabError::Io`] when a kernel parameter cannot be written.
    pub fn without_redirects(&self) -> Result<()> {
        self.sysctl(&[
            ("ipv4/conf/all/accept_redirects", "0"),
            ("ipv4/conf/eth0/accept_redirects", "0"),
            ("ipv4/conf/all/send_redirects", "0"),
            ("ipv4/conf/eth0/send_redirects", "0"),
            ("ipv6/conf/all/accept_redirects", "0"),
            ("ipv6/conf/eth0/accept_redirects", "0"),
        ])
    }

    /// No duplicate address detection and no router advertisements: an address is usable as soon as it is set.
    fn quiet_ipv6(&self) -> Result<()> {
        self.sysctl(&[
            ("ipv6/conf/default/accept_dad", "0"),
            ("ipv6/conf/default/dad_transmits", "0"),
            ("ipv6/conf/default/accept_ra", "0"),
            ("ipv6/conf/all/accept_dad", "0"),
            ("ipv6/conf/all/accept_ra", "0"),
        ])
    }

    /// The processes in this namespace, without the one that holds its mounts.
    ///
    /// # Errors
    /// [`LabError::Io`] when `/proc` cannot be read.
    pub fn pids(&self) -> Result<BTreeSet<i32>> {
        let inode = self.network.metadata().doing(|| format!("looking at {}", self.name))?.ino();
        let mut pids = pids_in(inode)?;
        if let Some(machine) = &self.machine {
            pids.remove(&machine.holder_pid);
        }
        Ok(pids)
    }

    /// Kills what runs in it and deletes it, so that its name is free. The network itself lives on while a thread of
    /// this process is in it. Once done, dropping does nothing more.
    pub(crate) fn destroy(&self) -> Result<()> {
        if self.gone.swap(true, Ordering::AcqRel) {
            return Ok(());
        }
        self.kill_all()?;
        if let Some(machine) = &self.machine {
            let mut holder = machine.holder.lock().unwrap_or_else(PoisonError::into_inner);
            let doing = || format!("ending the machine {}", self.name);
            holder.kill().doing(doing)?;
            holder.wait().doing(doing)?;
        }
        delete(&self.name)
    }

    /// Kills every process in it as if in one moment: each is stopped first, children before those that started them and could
    /// notice, so that none acts on the death of another.
    pub(crate) fn kill_all_at_once(&self) -> Result<()> {
        let pids = self.pids()?;
        for signal in [Signal::SIGSTOP, Signal::SIGKILL] {
            for pid in pids.iter().rev() {
                // It may have ended since.
                kill(Pid::from_raw(*pid), signal).ok();
            }
        }
        Ok(())
    }

    /// Kills every process in it, again and again until none is left (one may have forked meanwhile).
    pub(crate) fn kill_all(&self) -> Result<()> {
        kill_until_none(|| self.pids(), &self.name)
    }
}

/// A thread in a namespace, stopped and joined when dropped.
#[derive(Debug)]
pub struct Worker<T> {
    stop: Arc<AtomicBool>,
    handle: Option<JoinHandle<Option<T>>>,
}

impl<T> Worker<T> {
    /// Tells it to stop and returns what its body returned.
    ///
    /// # Errors
    /// [`LabError::Io`] when the thread panicked.
    pub fn stop(mut self) -> Result<T> {
        let panicked =
            || Err::<T, _>(std::io::Error::other("it panicked")).doing(|| "joining a thread".to_owned());
        self.join().map_or_else(panicked, Ok)
    }

    fn join(&mut self) -> Option<T> {
        self.stop.store(true, Ordering::Release);
        self.handle.take().and_then(|handle| handle.join().ok()).flatten()
    }
}

impl<T> Drop for Worker<T> {
    fn drop(&mut self) {
        self.join();
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // Best effort: what fails here is removed by the next lab's sweep.
        self.destroy().ok();
    }
}

/// Deletes a namespace by name.
pub(crate) fn delete(name: &str) -> Result<()> {
    let mut command = Command::new("ip");
    command.args(["netns", "delete", name]);
    process::output(command, "").map(drop)
}

/// Kills what runs in the namespace with this name, which a lab that is gone left behind, and deletes it.
pub(crate) fn kill_and_delete(name: &str) -> Result<()> {
    let path = format!("/run/netns/{name}");
    // A namespace that was named but not yet mounted has no processes; it only needs deleting.
    if let Ok(inode) = fs::metadata(&path).map(|file| file.ino()) {
        kill_until_none(|| pids_in(inode), name)?;
    }
    delete(name)
}

fn kill_until_none(mut pids: impl FnMut() -> Result<BTreeSet<i32>>, name: &str) -> Result<()> {
    wait_for(&format!("the end of every process in {name}"), process::STOP_LIMIT, || {
        match pids() {
            Ok(found) if found.is_empty() => Some(Ok(())),
            Ok(found) => {
                for pid in found {
                    // It may have ended since.
                    kill(Pid::from_raw(pid), Signal::SIGKILL).ok();
                }
                None
            }
            Err(error) => Some(Err(error)),
        }
    })?
}

/// The processes whose network namespace has this inode; never this process itself. Zombies have no namespace.
fn pids_in(inode: u64) -> Result<BTreeSet<i32>> {
    let own = Pid::this().as_raw();
    let wanted = format!("net:[{inode}]");
    let mut found = BTreeSet::new();
    for entry in fs::read_dir("/proc").doing(|| "listing /proc".to_owned())?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else {
            continue;
        };
        // A process that is gone by now is not in the namespace any more.
        let Ok(link) = fs::read_link(entry.path().join("ns/net")) else { continue };
        if pid != own && link.as_os_str() == wanted.as_str() {
            found.insert(pid);
        }
    }
    Ok(found)
}

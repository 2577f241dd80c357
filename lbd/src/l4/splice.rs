//! Moving the bytes of a bulky direction inside the kernel, through a pipe, instead of copying them out and in again.

use std::cell::{Cell, RefCell};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, SpliceFFlags, fcntl, splice};
use nix::unistd::pipe2;

/// The most that is moved into a pipe at once, and so what a connection holds in one direction.
const FILL_BYTES: usize = 2 * 1024 * 1024;

/// The room asked for in a pipe. A page of a packet takes a place of 4 KiB however little of it is used.
const PIPE_BYTES: i32 = 1024 * 1024;

/// Pipes that a worker opens at most, two files each. Beyond that directions are copied, bulky or not.
const PIPES_MAX: usize = 256;

/// Empty pipes kept for the next use; more are closed.
const FREE_MAX: usize = 32;

/// Reads of so many bytes are large, so many in a row prove a direction bulky.
const LARGE_BYTES: usize = 24 * 1024;
/// Fewer than so many, as often in a row, and it is not bulky any more.
const SMALL_BYTES: usize = 4 * 1024;
const STREAK: u8 = 4;

/// Whether a direction carries bulk, judged by what its last reads brought.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Bulkiness {
    bulky: bool,
    /// Reads in a row that speak against `bulky`.
    streak: u8,
}

impl Bulkiness {
    /// Takes the number of bytes that a read brought.
    pub(super) fn read(&mut self, count: usize) {
        let against = if self.bulky { count < SMALL_BYTES } else { count >= LARGE_BYTES };
        self.streak = if against { self.streak + 1 } else { 0 };
        if self.streak == STREAK {
            *self = Self { bulky: !self.bulky, streak: 0 };
        }
    }

    /// Whether it does.
    pub(super) const fn is_bulky(self) -> bool {
        self.bulky
    }
}

/// The pipes of a worker: a connection holds one only while bytes are under way in it.
#[derive(Debug, Default)]
pub(super) struct Pipes {
    free: RefCell<Vec<Ends>>,
    open: Cell<usize>,
}

#[derive(Debug)]
struct Ends {
    read: OwnedFd,
    write: OwnedFd,
}

impl Pipes {
    /// An empty pipe, which goes back when it is dropped. None at the bound, or when the kernel has none to give.
    pub(super) fn take(self: &Rc<Self>) -> Option<Pipe> {
        let free = self.free.borrow_mut().pop();
        let ends = match free {
            Some(ends) => ends,
            None if self.open.get() >= PIPES_MAX => return None,
            None => {
                let ends = open().ok()?;
                self.open.set(self.open.get() + 1);
                ends
            }
        };
        Some(Pipe { ends: Some(ends), held: 0, pool: Rc::clone(self) })
    }
}

fn open() -> nix::Result<Ends> {
    let (read, write) = pipe2(OFlag::O_NONBLOCK | OFlag::O_CLOEXEC)?;
    // Without the right to a larger one the usual 64 KiB do, at the price of more calls.
    fcntl(&write, FcntlArg::F_SETPIPE_SZ(PIPE_BYTES)).ok();
    Ok(Ends { read, write })
}

/// A pipe in use.
#[derive(Debug)]
pub(super) struct Pipe {
    /// Always there until it is dropped.
    ends: Option<Ends>,
    held: usize,
    pool: Rc<Pipes>,
}

impl Pipe {
    /// Whether nothing is under way in it.
    pub(super) const fn is_empty(&self) -> bool {
        self.held == 0
    }

    /// Moves what `from` has into the empty pipe; answers how much, 0 at the end of the stream.
    pub(super) fn fill(&mut self, from: impl AsFd) -> io::Result<usize> {
        let Some(ends) = &self.ends else { return Ok(0) };
        let count = splice(from, None, &ends.write, None, FILL_BYTES, flags())?;
        self.held += count;
        Ok(count)
    }

    /// Moves what the pipe holds to `to`, as far as it takes it; answers how much.
    pub(super) fn drain(&mut self, to: impl AsFd) -> io::Result<usize> {
        let Some(ends) = &self.ends else { return Ok(0) };
        let count = splice(&ends.read, None, to, None, self.held, flags())?;
        self.held -= count;
        Ok(count)
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        let mut free = self.pool.free.borrow_mut();
        match self.ends.take() {
            // What a broken connection left in its pipe must not get into another one.
            Some(ends) if self.held == 0 && free.len() < FREE_MAX => free.push(ends),
            _ => self.pool.open.set(self.pool.open.get() - 1),
        }
    }
}

fn flags() -> SpliceFFlags {
    SpliceFFlags::SPLICE_F_MOVE | SpliceFFlags::SPLICE_F_NONBLOCK
}

/// Whether the kernel cannot splice from this socket at all, so that it has to be copied.
pub(super) fn is_impossible(error: &io::Error) -> bool {
    let errno = error.raw_os_error().map(Errno::from_raw);
    matches!(errno, Some(Errno::EINVAL | Errno::ENOSYS | Errno::EOPNOTSUPP | Errno::EPERM | Errno::ENOMEM))
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};

    use super::*;

    fn connected() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (client, listener.accept().unwrap().0)
    }

    #[test]
    fn large_reads_in_a_row_prove_bulk_and_small_ones_end_it() {
        let mut bulk = Bulkiness::default();
        for _ in 1..STREAK {
            bulk.read(LARGE_BYTES);
        }
        bulk.read(LARGE_BYTES - 1);
        assert!(!bulk.is_bulky());
        for _ in 0..STREAK {
            assert!(!bulk.is_bulky());
            bulk.read(LARGE_BYTES);
        }
        assert!(bulk.is_bulky());
        for _ in 1..STREAK {
            bulk.read(SMALL_BYTES - 1);
        }
        bulk.read(SMALL_BYTES);
        for _ in 0..STREAK {
            assert!(bulk.is_bulky());
            bulk.read(1);
        }
        assert!(!bulk.is_bulky());
    }

    #[test]
    fn bytes_pass_through_and_the_end_is_seen() {
        let ((mut source, from), (to, mut sink)) = (connected(), connected());
        let pipes = Rc::new(Pipes::default());
        let mut pipe = pipes.take().unwrap();
        source.write_all(b"through the pipe").unwrap();
        drop(source);
        assert_eq!(pipe.fill(&from).unwrap(), 16);
        assert!(!pipe.is_empty());
        assert_eq!(pipe.drain(&to).unwrap(), 16);
        assert!(pipe.is_empty());
        assert_eq!(pipe.fill(&from).unwrap(), 0);
        drop(to);
        let mut text = String::new();
        sink.read_to_string(&mut text).unwrap();
        assert_eq!(text, "through the pipe");
    }

    #[test]
    fn a_pipe_with_something_left_in_it_is_not_used_again() {
        let (mut source, from) = connected();
        let pipes = Rc::new(Pipes::default());
        let mut pipe = pipes.take().unwrap();
        source.write_all(b"left over").unwrap();
        assert_eq!(pipe.fill(&from).unwrap(), 9);
        drop(pipe);
        assert_eq!((pipes.free.borrow().len(), pipes.open.get()), (0, 0));
        drop(pipes.take().unwrap());
        assert_eq!((pipes.free.borrow().len(), pipes.open.get()), (1, 1));
    }

    #[test]
    fn there_is_a_bound_and_the_rest_goes_without() {
        let pipes = Rc::new(Pipes::default());
        let taken: Vec<Pipe> = std::iter::from_fn(|| pipes.take()).take(PIPES_MAX + 1).collect();
        assert!(taken.len() <= PIPES_MAX);
        assert!(
            taken.len() == PIPES_MAX || pipes.open.get() == taken.len(),
            "or the test's limit of open files is lower"
        );
        drop(taken);
        assert!(pipes.open.get() <= FREE_MAX);
        assert_eq!(pipes.free.borrow().len(), pipes.open.get());
    }

    #[test]
    fn what_cannot_be_spliced_is_told_from_a_broken_connection() {
        assert!(is_impossible(&Errno::EINVAL.into()));
        assert!(!is_impossible(&Errno::ECONNRESET.into()));
        assert!(!is_impossible(&io::ErrorKind::UnexpectedEof.into()));
    }
}

//! The whole control side over a loop that is none: start, signals, reload, end.
//!
//! One test, because signals are for the whole process.

mod control_support;

use std::net::TcpStream;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::time::Duration;

use control_support::{Folder, config_text, fake_loop, free_port, request, wait_for};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use vrrpd::command::{LoopHandle, Setup};
use vrrpd::control::{ControlError, Options, run};

/// The loop in this test: it tells of its start.
fn start(setup: Setup) -> Result<LoopHandle, std::io::Error> {
    Ok(fake_loop(setup.commands, setup.status, channel().0))
}

fn refuse(_: Setup) -> Result<LoopHandle, std::io::Error> {
    Err(std::io::Error::other("no privileges"))
}

/// What the service manager was told next.
fn told(manager: &UnixDatagram) -> String {
    let mut buffer = [0; 256];
    let count = manager.recv(&mut buffer).unwrap();
    String::from_utf8_lossy(&buffer[..count]).into_owned()
}

fn raise(signal: Signal) {
    kill(Pid::this(), signal).unwrap();
}

fn answers(port: u16) -> bool {
    TcpStream::connect(("127.0.0.1", port)).is_ok_and(|s| request(s, "GET", "/v1/role", "", "").status == 200)
}

fn options(folder: &Folder, file: &Path) -> Options {
    Options { config: file.to_owned(), node: "a".to_owned(), run_dir: folder.join("run") }
}

/// What keeps a second daemon from starting, and that the first is none the worse for it.
fn a_second_daemon_is_refused(folder: &Folder, first: &Options, port: u16) {
    let again = run(first, start).unwrap_err().to_string();
    assert!(again.contains("another vrrpd is running with this run directory"), "{again}");
    let other = Options { run_dir: folder.join("other"), ..first.clone() };
    let busy = run(&other, start).unwrap_err().to_string();
    assert!(busy.contains(&format!("cannot listen on 127.0.0.1:{port}")), "{busy}");
    assert!(!other.run_dir.exists());
    assert!(answers(port));
}

#[test]
fn from_start_to_end() {
    let folder = Folder::new();
    let manager = UnixDatagram::bind(folder.join("notify")).unwrap();
    manager.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    // SAFETY: no other thread of this process reads or writes the environment yet.
    unsafe { std::env::set_var("NOTIFY_SOCKET", folder.join("notify")) };
    let (port, next_port) = (free_port(), free_port());
    let file = folder.write("pair.toml", &config_text(port, ""));
    let options = options(&folder, &file);

    // A loop that does not start leaves nothing behind.
    let refused = run(&options, refuse).unwrap_err();
    assert!(
        matches!(&refused, ControlError::Loop(error) if error.to_string() == "no privileges"),
        "{refused}"
    );
    assert!(!options.run_dir.exists());

    let ended = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let running = scope.spawn(|| {
            let result = run(&options, start);
            ended.store(true, Ordering::SeqCst);
            result
        });
        assert_eq!(told(&manager).trim(), "READY=1");
        assert!(answers(port));
        for name in ["vrrpd.sock", "vrrpd-ipc.sock"] {
            UnixStream::connect(options.run_dir.join(name)).unwrap();
        }
        a_second_daemon_is_refused(&folder, &options, port);

        // A bad file changes nothing.
        folder.write("pair.toml", "nonsense = 1");
        raise(Signal::SIGHUP);
        assert!(told(&manager).starts_with("RELOADING=1"));
        assert_eq!(told(&manager).trim(), "READY=1");
        assert!(answers(port));
        let socket = UnixStream::connect(options.run_dir.join("vrrpd.sock")).unwrap();
        let answer = request(socket, "POST", "/v1/reload", "", "");
        assert_eq!((answer.status, answer.error().contains("nonsense")), (409, true), "{answer:?}");
        assert!(told(&manager).starts_with("RELOADING=1"));
        assert_eq!(told(&manager).trim(), "READY=1");

        // A good one is taken over, the API's address included.
        folder.write("pair.toml", &config_text(next_port, ""));
        raise(Signal::SIGHUP);
        assert!(told(&manager).starts_with("RELOADING=1"));
        assert_eq!(told(&manager).trim(), "READY=1");
        assert!(answers(next_port));
        wait_for("the old port's end", || (!answers(port)).then_some(()));

        assert!(!ended.load(Ordering::SeqCst));
        raise(Signal::SIGTERM);
        assert_eq!(told(&manager).trim(), "STOPPING=1");
        running.join().unwrap().unwrap();
    });
    assert!(!options.run_dir.exists());
}

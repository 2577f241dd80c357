use super::*;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

fn readable(fd: BorrowedFd<'_>) -> bool {
    poll(&mut [PollFd::new(fd, PollFlags::POLLIN)], PollTimeout::ZERO).unwrap() == 1
}

#[test]
fn a_command_wakes_and_a_full_queue_is_busy() {
    let (sender, receiver) = commands().unwrap();
    assert!(!readable(receiver.as_fd()));
    for _ in 0..COMMANDS_MAX {
        sender.send(Command::Shutdown).unwrap();
    }
    assert_eq!(sender.send(Command::Shutdown), Err(CommandError::Busy));
    assert!(readable(receiver.as_fd()));
    receiver.clear();
    assert!(!readable(receiver.as_fd()));
    let mut count = 0;
    while receiver.try_recv().is_some() {
        count += 1;
    }
    assert_eq!(count, COMMANDS_MAX);
    drop(receiver);
    assert_eq!(sender.send(Command::Shutdown), Err(CommandError::Stopping));
}

#[test]
fn events_at_the_bound_are_dropped_and_counted() {
    let (sender, receiver) = events();
    for _ in 0..EVENTS_MAX + 3 {
        sender.send(UnixTime::default(), Event::Maintenance { on: true });
    }
    assert_eq!(receiver.dropped().load(Ordering::Relaxed), 3);
    assert_eq!(std::iter::from_fn(|| receiver.recv(Duration::ZERO).unwrap()).count(), EVENTS_MAX);
}

#[test]
fn only_changed_roles_wake_the_reader() {
    let cell = StatusCell::new().unwrap();
    cell.publish(NodeStatus { maintenance: true, ..NodeStatus::default() });
    assert!(!readable(cell.roles_fd()));
    assert_eq!(cell.latest().number, 1);
    assert!(cell.latest().status.maintenance);
}

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

#[test]
fn a_state_that_is_being_read_is_freed_by_the_loop() {
    let cell = StatusCell::new().unwrap();
    let held = cell.latest();
    let weak = Arc::downgrade(&held);
    cell.publish(NodeStatus::default());
    drop(held);
    assert!(weak.upgrade().is_some(), "the reader freed it");
    cell.publish(NodeStatus::default());
    assert!(weak.upgrade().is_none(), "nobody freed it");
}

#[test]
fn readers_that_never_let_go_do_not_fill_the_memory() {
    let cell = StatusCell::new().unwrap();
    let held: Vec<_> = (0..RETIRED_MAX * 2)
        .map(|_| {
            let latest = cell.latest();
            cell.publish(NodeStatus::default());
            latest
        })
        .collect();
    assert_eq!(cell.retired.lock().unwrap().len(), RETIRED_MAX);
    drop(held);
}

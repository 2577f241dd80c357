use std::io::Write as _;
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use tokio::sync::{Notify, mpsc, oneshot};

use super::*;

const LIMIT: Duration = Duration::from_secs(20);

/// Runs a test as a worker's main task; it fails rather than hang.
fn run<F: Future<Output = ()> + 'static>(test: impl FnOnce(Rc<Executor>) -> F) {
    let executor = Rc::new(Executor::new().unwrap());
    let test = test(Rc::clone(&executor));
    let (within, passed) = (Rc::clone(&executor), Rc::new(Cell::new(false)));
    let pass = Rc::clone(&passed);
    executor.run(async move { pass.set(within.timeout(LIMIT, test).await.is_some()) }).unwrap();
    assert!(passed.get(), "the test failed, or did not end in time");
    assert!(executor.tasks.borrow().is_empty());
    assert!(executor.timers.borrow().next().is_none());
}

#[test]
fn tasks_have_their_turns_in_the_order_they_are_woken() {
    run(async |executor| {
        let (sender, mut order) = mpsc::unbounded_channel();
        for name in ["first", "second", "third"] {
            let sender = sender.clone();
            executor.spawn(async move {
                for turn in 0..3 {
                    sender.send((name, turn)).unwrap();
                    yield_now().await;
                }
            });
        }
        drop(sender);
        for turn in 0..3 {
            for name in ["first", "second", "third"] {
                assert_eq!(order.recv().await, Some((name, turn)));
            }
        }
    });
}

#[test]
fn a_busy_task_keeps_nobody_from_sockets_timers_and_calls() {
    run(async |executor| {
        executor.spawn(async {
            loop {
                yield_now().await;
            }
        });
        executor.sleep(Duration::from_millis(5)).await;
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let watched = executor.reactor().enter(ours.as_fd(), Interest::Reading).unwrap();
        let (called, call) = oneshot::channel();
        let other = thread::spawn(move || {
            theirs.write_all(b"!").unwrap();
            called.send(()).unwrap();
        });
        poll_fn(|context| watched.poll(context, Ready::READABLE)).await;
        call.await.unwrap();
        other.join().unwrap();
    });
}

#[test]
fn other_threads_wake_a_sleeping_executor_and_no_call_is_lost() {
    const CALLS: usize = 20_000;
    run(async |_| {
        let (asked, answered) = (Arc::new(Notify::new()), Arc::new(AtomicUsize::new(0)));
        let (ask, answers) = (Arc::clone(&asked), Arc::clone(&answered));
        let caller = thread::spawn(move || {
            for call in 0..CALLS {
                ask.notify_one();
                while answers.load(Ordering::Acquire) == call {
                    thread::yield_now();
                }
            }
        });
        for _ in 0..CALLS {
            asked.notified().await;
            answered.fetch_add(1, Ordering::Release);
        }
        caller.join().unwrap();
    });
}

#[test]
fn sleeps_end_in_order_and_never_early() {
    run(async |executor| {
        let begin = Instant::now();
        let (sender, mut order) = mpsc::unbounded_channel();
        for ms in [30, 10, 20, 0, 10] {
            let (sender, within) = (sender.clone(), Rc::clone(&executor));
            executor.spawn(async move {
                within.sleep(Duration::from_millis(ms)).await;
                assert!(begin.elapsed() >= Duration::from_millis(ms));
                sender.send(ms).unwrap();
            });
        }
        drop(sender);
        let mut got = Vec::new();
        while let Some(ms) = order.recv().await {
            got.push(ms);
        }
        assert_eq!(got, [0, 10, 10, 20, 30]);
    });
}

#[test]
fn a_timeout_ends_what_takes_longer_and_leaves_no_timer() {
    run(async |executor| {
        assert_eq!(executor.timeout(LIMIT, async { 7 }).await, Some(7));
        assert_eq!(
            executor.timeout(Duration::ZERO, std::future::ready(7)).await,
            Some(7),
            "it was there at once"
        );
        let late = executor.timeout(Duration::from_millis(2), std::future::pending::<()>());
        assert_eq!(late.await, None);
        let soon = executor.timeout(LIMIT, yield_now());
        assert_eq!(soon.await, Some(()));
        // The one of this test alone.
        assert!(executor.timers.borrow().next().unwrap() > Instant::now() + LIMIT / 2);
    });
}

#[test]
fn a_panic_ends_its_task_alone() {
    run(async |executor| {
        let (sender, receiver) = oneshot::channel::<()>();
        executor.spawn(async move {
            let _sender = sender;
            panic!("as the test wants");
        });
        assert!(receiver.await.is_err());
        let (sender, receiver) = oneshot::channel();
        executor.spawn(async move { sender.send(()).unwrap() });
        receiver.await.unwrap();
        // The main one alone.
        assert_eq!(executor.tasks.borrow().len(), 1);
    });
}

#[test]
fn a_panic_of_the_main_task_ends_the_run() {
    let executor = Rc::new(Executor::new().unwrap());
    executor.run(async { panic!("as the test wants") }).unwrap();
}

#[test]
fn what_is_left_at_the_end_is_dropped_also_what_another_thread_holds_a_waker_of() {
    struct Count(Arc<AtomicUsize>);
    impl Drop for Count {
        fn drop(&mut self) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }
    let dropped = Arc::new(AtomicUsize::new(0));
    let notify = Arc::new(Notify::new());
    let count = Arc::clone(&dropped);
    let held = Arc::clone(&notify);
    run(async move |executor| {
        for kind in 0..3 {
            let (count, held, within) = (Count(Arc::clone(&count)), Arc::clone(&held), Rc::clone(&executor));
            executor.spawn(async move {
                let _count = count;
                match kind {
                    0 => held.notified().await,
                    1 => within.sleep(LIMIT * 2).await,
                    _ => std::future::pending().await,
                }
            });
        }
        // Never gets a turn.
        yield_now().await;
        let last = Count(count);
        executor.spawn(async move { drop(last) });
    });
    assert_eq!(dropped.load(Ordering::Relaxed), 4);
    thread::spawn(move || notify.notify_waiters()).join().unwrap();
}

#[test]
fn a_task_takes_its_future_s_size_once() {
    let executor = Rc::new(Executor::new().unwrap());
    let room = [0_u8; 1000];
    let future = async move {
        yield_now().await;
        std::hint::black_box(&room);
    };
    let size = size_of_val(&future);
    let spawned = Spawned { future, ended: Ended { executor, key: 0 } };
    assert!((size..size + 100).contains(&size_of_val(&spawned)), "{} of {size}", size_of_val(&spawned));
}

//! What processes use: processor time and memory.

use std::fs;
use std::io;
use std::time::Duration;

/// A process and its descendants.
pub(crate) fn family(pid: i32) -> Vec<i32> {
    let mut found = vec![pid];
    let mut next = 0;
    while let Some(pid) = found.get(next).copied() {
        next += 1;
        for task in tasks(pid) {
            let children = fs::read_to_string(format!("{task}/children")).unwrap_or_default();
            found.extend(children.split_whitespace().filter_map(|child| child.parse::<i32>().ok()));
        }
    }
    found
}

fn tasks(pid: i32) -> Vec<String> {
    let dir = format!("/proc/{pid}/task");
    let entries = fs::read_dir(&dir).map(|entries| entries.flatten().collect::<Vec<_>>()).unwrap_or_default();
    entries.iter().map(|entry| entry.path().to_string_lossy().into_owned()).collect()
}

/// The processor time of all threads of these processes so far, in user and kernel mode, to the nanosecond.
///
/// It contains what the kernel does on their behalf while they run: with veth that is the way of a packet that they send up
/// to the receiver's socket, and whatever interrupt arrives meanwhile.
pub(crate) fn processor_time(pids: &[i32]) -> io::Result<Duration> {
    let mut sum = Duration::ZERO;
    for task in pids.iter().flat_map(|pid| tasks(*pid)) {
        // A thread that has ended since has nothing more to tell.
        let Ok(text) = fs::read_to_string(format!("{task}/schedstat")) else { continue };
        sum += parse_schedstat(&text)
            .ok_or_else(|| io::Error::other(format!("{task}/schedstat has {text:?}")))?;
    }
    Ok(sum)
}

/// The same of those threads of a process that have this name.
pub(crate) fn thread_time(pid: i32, name: &str) -> io::Result<Duration> {
    let times = of_threads(pid, name, "schedstat", parse_schedstat)?;
    Ok(times.into_iter().sum())
}

/// How often those threads of a process that have this name went to sleep so far, to wait for something.
pub(crate) fn thread_sleeps(pid: i32, name: &str) -> io::Result<u64> {
    Ok(of_threads(pid, name, "status", parse_sleeps)?.into_iter().sum())
}

/// What a file says of each thread that has this name; an error where none has.
fn of_threads<T>(pid: i32, name: &str, file: &str, parse: fn(&str) -> Option<T>) -> io::Result<Vec<T>> {
    let named = |task: &String| {
        fs::read_to_string(format!("{task}/comm")).is_ok_and(|comm| comm.trim_end_matches('\n') == name)
    };
    let read = |task: String| {
        let text = fs::read_to_string(format!("{task}/{file}"))?;
        parse(&text).ok_or_else(|| io::Error::other(format!("{task}/{file} has {text:?}")))
    };
    let found: Vec<T> = tasks(pid).into_iter().filter(named).map(read).collect::<io::Result<_>>()?;
    if found.is_empty() {
        return Err(io::Error::other(format!("process {pid} has no thread {name}")));
    }
    Ok(found)
}

fn parse_sleeps(text: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"))?.trim().parse().ok()
}

fn parse_schedstat(text: &str) -> Option<Duration> {
    Some(Duration::from_nanos(text.split_whitespace().next()?.parse().ok()?))
}

/// The memory of these processes in bytes; what they share with others is split among the sharers.
pub(crate) fn memory_bytes(pids: &[i32]) -> io::Result<u64> {
    let mut sum = 0;
    for pid in pids {
        let path = format!("/proc/{pid}/smaps_rollup");
        let text = fs::read_to_string(&path)?;
        sum += parse_pss(&text).ok_or_else(|| io::Error::other(format!("{path} has no Pss")))?;
    }
    Ok(sum)
}

fn parse_pss(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_files_are_understood() {
        assert_eq!(parse_schedstat("346541 0 2\n"), Some(Duration::from_nanos(346_541)));
        assert_eq!(parse_schedstat(""), None);
        let status = "Name:\tlbd-peer\nvoluntary_ctxt_switches:\t150\nnonvoluntary_ctxt_switches:\t545\n";
        assert_eq!((parse_sleeps(status), parse_sleeps("Name:\tx\n")), (Some(150), None));
        let rollup =
            "55d0-7ffc ---p 00000000 00:00 0 [rollup]\nRss:  1200 kB\nPss:   600 kB\nPss_Dirty:  80 kB\n";
        assert_eq!(parse_pss(rollup), Some(600 * 1024));
        assert_eq!(parse_pss("Rss: 1 kB\n"), None);
    }

    #[test]
    fn this_process_has_used_some_of_both() {
        let own = i32::try_from(std::process::id()).unwrap();
        assert_eq!(family(own)[0], own);
        assert!(processor_time(&[own]).unwrap() > Duration::ZERO);
        assert!(memory_bytes(&[own]).unwrap() > 4096);
        assert!(memory_bytes(&[-1]).is_err());
    }

    #[test]
    fn threads_are_told_apart_by_their_names() {
        let own = i32::try_from(std::process::id()).unwrap();
        let (stop, stopped) = std::sync::mpsc::channel::<()>();
        let spins = std::thread::Builder::new().name("usage-spins".to_owned());
        let thread =
            spins.spawn(move || while stopped.try_recv() == Err(std::sync::mpsc::TryRecvError::Empty) {});
        let thread = thread.unwrap();
        let limit = std::time::Instant::now() + Duration::from_secs(20);
        // A new thread has its name a moment after it began.
        while thread_time(own, "usage-spins").map_or(true, |time| time.is_zero()) {
            assert!(std::time::Instant::now() < limit, "{:?}", thread_time(own, "usage-spins"));
            std::thread::sleep(Duration::from_millis(1));
        }
        drop(stop);
        thread.join().unwrap();
        assert!(thread_time(own, "usage-nobody").is_err());
    }

    #[test]
    fn children_belong_to_the_family() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let own = i32::try_from(std::process::id()).unwrap();
        let known = family(own).contains(&i32::try_from(child.id()).unwrap());
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(known);
    }
}

//! What programs that make load say of it: `wrk`, and `h2load` of nghttp2.

/// Requests that were all answered with success.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Done {
    /// How many.
    pub requests: u64,
    /// How many in a second.
    pub per_second: f64,
}

/// What `wrk` has printed; `None` if a request failed, or it is not what `wrk` prints.
#[must_use]
pub fn wrk(text: &str) -> Option<Done> {
    if text.contains("Socket errors") || text.contains("Non-2xx") {
        return None;
    }
    let requests = text.lines().find(|line| line.contains(" requests in "))?;
    let rate = text.lines().find_map(|line| line.trim().strip_prefix("Requests/sec:"))?;
    let requests = requests.split_whitespace().next()?.parse().ok()?;
    Some(Done { requests, per_second: rate.trim().parse().ok()? })
}

/// What `h2load` has printed; `None` if a request failed, or it is not what `h2load` prints.
#[must_use]
pub fn h2load(text: &str) -> Option<Done> {
    let rate = text.lines().find(|line| line.starts_with("finished in "))?;
    let rate = rate.split(", ").find_map(|part| part.strip_suffix(" req/s"))?;
    let count = |what| h2load_count(text, what);
    let requests = count("succeeded")?;
    let whole = requests == count("total")? && count("failed")? == 0 && requests == h2load_2xx(text)?;
    whole.then_some(Done { requests, per_second: rate.parse().ok()? })
}

/// What became of the requests of an `h2load` with one connection, whose server may say that it wants no more on it (GOAWAY): how many
/// were answered with success. `log` is what it has written to its `--log-file`.
///
/// `h2load` does not go on after GOAWAY, and counts as failed what it would have asked and did not: the rest of its `-n`, and
/// what it had prepared but not sent. The former it calls never started, and says that it could not. The latter is in the log with the time 0, for that is
/// written down when a request is sent. What was sent is in the log with the status of the answer, or -1 if there was none, and not at all if
/// the connection ended beneath it.
///
/// # Errors
/// What is wrong, if one that was sent was not answered with success, or not all were for another reason than GOAWAY.
pub fn h2load_sent(text: &str, log: &str) -> Result<u64, String> {
    let count = |what| h2load_count(text, what).ok_or_else(|| format!("no count of requests in {text:?}"));
    let (total, started) = (count("total")?, count("started")?);
    if started < total && !text.contains("Process Request Failure") {
        return Err(format!("of {total} requests {started} were started: {text}"));
    }
    let (mut closed, mut answered) = (0, 0);
    for line in log.lines() {
        let mut words = line.split('\t');
        let (sent_at, status) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        match (sent_at, status) {
            ("0", "-1") => {}
            (_, status) if status.len() == 3 && status.starts_with('2') => answered += 1,
            _ => return Err(format!("a request came to nothing: {line:?}")),
        }
        closed += 1;
    }
    if started == closed {
        Ok(answered)
    } else {
        Err(format!("of {started} requests {closed} came to an end: {text}"))
    }
}

/// A number of the line that begins with `requests:`.
fn h2load_count(text: &str, what: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("requests: "))?;
    line.split(", ").find_map(|part| part.strip_suffix(what)?.trim().parse().ok())
}

/// Answers with success.
fn h2load_2xx(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("status codes: "))?;
    line.split(", ").find_map(|part| part.strip_suffix(" 2xx")?.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    const H2LOAD: &str = "starting benchmark...\nprogress: 100% done\n\n\
        finished in 1.25s, 3200.00 req/s, 1.20MB/s\n\
        requests: 4000 total, 4000 started, 4000 done, 4000 succeeded, 0 failed, 0 errored, 0 timeout\n\
        status codes: 4000 2xx, 0 3xx, 0 4xx, 0 5xx\n\
        traffic: 1.50MB (1572864) total\n";

    #[test]
    fn what_wrk_prints_is_understood() {
        let text = "Running 2s test @ http://x/\n  104 requests in 2.00s, 8.51MB read\nRequests/sec:  52.0\n";
        assert_eq!(wrk(text), Some(Done { requests: 104, per_second: 52.0 }));
        assert_eq!(wrk(&format!("{text}  Socket errors: connect 0, read 1\n")), None);
        assert_eq!(wrk(&format!("{text}  Non-2xx or 3xx responses: 1\n")), None);
        assert_eq!(wrk("wrk: command not found"), None);
    }

    #[test]
    fn what_h2load_prints_is_understood() {
        assert_eq!(h2load(H2LOAD), Some(Done { requests: 4000, per_second: 3200.0 }));
        assert_eq!(h2load(&H2LOAD.replace("0 failed, 0 errored", "1 failed, 1 errored")), None);
        assert_eq!(
            h2load(&H2LOAD.replace("4000 2xx, 0 3xx, 0 4xx, 0 5xx", "3999 2xx, 0 3xx, 0 4xx, 1 5xx")),
            None
        );
        assert_eq!(h2load(&H2LOAD.replace("4000 succeeded", "3999 succeeded")), None);
        assert_eq!(h2load(""), None);
    }

    #[test]
    fn what_was_never_sent_was_not_lost() {
        let refused = "Process Request Failure:6\n\n\
            requests: 10 total, 4 started, 4 done, 3 succeeded, 7 failed, 7 errored, 0 timeout\n";
        let answered = "1700000000000000\t200\t310\n".repeat(3);
        let unsent = format!("{answered}0\t-1\t99000000\n");
        assert_eq!(h2load_sent(refused, &unsent), Ok(3));
        assert_eq!(h2load_sent(H2LOAD, &"1700000000000000\t204\t310\n".repeat(4000)), Ok(4000));
        let lost = |text: &str, log: &str| h2load_sent(text, log).unwrap_err();
        assert!(lost(refused, &format!("{answered}1700000000000000\t-1\t400\n")).contains("came to nothing"));
        assert!(
            lost(refused, &format!("{answered}1700000000000000\t503\t400\n")).contains("came to nothing")
        );
        assert!(lost(refused, &answered).contains("of 4 requests 3"), "its connection ended beneath one");
        assert!(lost(&refused.replace("Process Request Failure:6", ""), &unsent).contains("were started"));
        assert!(h2load_sent("", "").is_err());
    }
}

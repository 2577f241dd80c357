use proptest::prelude::*;

use super::*;

const OK: &[(u16, u16)] = &[(200, 299)];

/// The verdict on an answer read in pieces of `cut` bytes, with the connection closed at its end.
fn judge_cut(answer: &[u8], expect: &[(u16, u16)], body: Option<&str>, cut: usize) -> Verdict {
    let pattern = body.map(Pattern::new);
    let mut reader = Answer::new(expect, pattern.as_ref());
    for piece in answer.chunks(cut) {
        if let Some(verdict) = reader.push(piece) {
            return verdict;
        }
    }
    reader.end()
}

/// The same however it is cut.
fn judge(answer: &[u8], expect: &[(u16, u16)], body: Option<&str>) -> Verdict {
    let whole = judge_cut(answer, expect, body, answer.len().max(1));
    for cut in [1, 2, 3, 7, 64] {
        assert_eq!(judge_cut(answer, expect, body, cut), whole, "in pieces of {cut}");
    }
    whole
}

fn no(text: &str) -> Verdict {
    Err(Failure::NoMatch(text.to_owned()))
}

#[test]
fn the_request_is_one_get() {
    let text = String::from_utf8(request("/health", "shop.example")).unwrap();
    assert!(text.starts_with("GET /health HTTP/1.1\r\nHost: shop.example\r\n"));
    assert!(text.ends_with("Connection: close\r\n\r\n"));
}

#[test]
fn statuses() {
    assert_eq!(judge(b"HTTP/1.1 204 No Content\r\nServer: x\r\n\r\n", OK, None), Ok(()));
    assert_eq!(judge(b"HTTP/1.0 200\r\n\r\nbody", OK, None), Ok(()));
    assert_eq!(judge(b"HTTP/1.1 503 Busy\r\n\r\n", OK, None), Err(Failure::Status(503)));
    assert_eq!(judge(b"HTTP/1.1 404 x\r\n\r\n", &[(200, 200), (404, 404)], None), Ok(()));
    assert_eq!(judge(b"HTTP/1.1 200 OK\r\n", OK, None), Err(Failure::Closed(Stage::Rest)));
    assert_eq!(judge(b"", OK, None), Err(Failure::Closed(Stage::Answer)));
    assert_eq!(judge(b"SSH-2.0-x", OK, None), Err(NOT_HTTP));
    assert_eq!(judge(b"HTTP/1.1 2000 x\r\n\r\n", OK, None), Err(NOT_HTTP));
    assert_eq!(judge(b"HTTP/1.1 099 x\r\n\r\n", OK, None), Err(NOT_HTTP));
}

#[test]
fn a_status_decides_before_the_body_is_complete() {
    let answer = b"HTTP/1.1 500 x\r\nContent-Length: 1000\r\n\r\n";
    assert_eq!(Answer::new(OK, Some(&Pattern::new("x"))).push(answer), Some(Err(Failure::Status(500))));
    let answer = b"HTTP/1.1 200 x\r\nContent-Length: 1000\r\n\r\nall is well, and";
    assert_eq!(Answer::new(OK, Some(&Pattern::new("well"))).push(answer), Some(Ok(())));
}

#[test]
fn interim_answers_are_passed_over() {
    let answer = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\n\r\n";
    assert_eq!(judge(answer, OK, None), Ok(()));
    assert_eq!(judge(b"HTTP/1.1 101 Switching\r\n\r\n", OK, None), Err(Failure::Status(101)));
    assert_eq!(judge(b"HTTP/1.1 101 Switching\r\n\r\n", &[(101, 101)], None), Ok(()));
    let endless = b"HTTP/1.1 100 x\r\n\r\n".repeat(HEAD_BYTES_MAX);
    assert_eq!(judge_cut(&endless, OK, None, 4096), Err(Failure::TooLarge(HEAD_BYTES_MAX, "answer's head")));
}

#[test]
fn heads_have_a_bound() {
    let mut answer = b"HTTP/1.1 200 OK\r\nX: ".to_vec();
    answer.resize(10 * HEAD_BYTES_MAX, b'x');
    let pattern = Pattern::new("x");
    let mut reader = Answer::new(OK, Some(&pattern));
    let mut pushed = 0;
    let verdict = answer.chunks(1000).find_map(|piece| {
        pushed += piece.len();
        reader.push(piece)
    });
    assert_eq!(verdict, Some(Err(Failure::TooLarge(HEAD_BYTES_MAX, "answer's head"))));
    assert!(pushed < HEAD_BYTES_MAX + 1000 && reader.read.len() <= HEAD_BYTES_MAX);
}

#[test]
fn a_head_of_the_largest_size_is_read() {
    let mut answer = b"HTTP/1.1 200 OK\r\nX: ".to_vec();
    answer.resize(HEAD_BYTES_MAX - 4, b'x');
    answer.extend_from_slice(b"\r\n\r\nthe body");
    assert_eq!(judge(&answer, OK, Some("the body")), Ok(()));
}

#[test]
fn bodies_are_searched_as_far_as_they_go() {
    let plain = |length: usize, body: &str| {
        format!("HTTP/1.1 200 OK\r\ncontent-LENGTH:  {length} \r\nX: y\r\n\r\n{body}").into_bytes()
    };
    assert_eq!(judge(&plain(10, "status: ok"), OK, Some("ok")), Ok(()));
    assert_eq!(judge(&plain(8, "status: ok"), OK, Some("ok")), no("ok"), "the rest is not the body's");
    assert_eq!(judge(&plain(10, "status: no"), OK, Some("ok")), no("ok"));
    assert_eq!(judge(&plain(99, "status: no"), OK, Some("ok")), Err(Failure::Closed(Stage::Rest)));
    assert_eq!(judge(&plain(0, ""), OK, Some("ok")), no("ok"));
    assert_eq!(judge(b"HTTP/1.0 200 OK\r\n\r\nis ok", OK, Some("ok")), Ok(()));
    assert_eq!(judge(b"HTTP/1.0 200 OK\r\n\r\nis not", OK, Some("ok")), no("ok"));
    assert_eq!(judge(b"HTTP/1.1 204 x\r\nContent-Length: 2\r\n\r\nok", OK, Some("ok")), no("ok"));
    assert_eq!(judge(b"HTTP/1.1 200 OK\r\nok: ok\r\nContent-Length: 1\r\n\r\nx", OK, Some("ok")), no("ok"));
}

#[test]
fn chunked_bodies_are_decoded() {
    let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\nContent-Length: 1\r\n\r\n";
    let chunked = |body: &str| format!("{head}{body}").into_bytes();
    assert_eq!(judge(&chunked("3\r\nrea\r\n2;x\r\ndy\r\n0\r\n\r\n"), OK, Some("ready")), Ok(()));
    assert_eq!(judge(&chunked("3\r\nrea\r\n2\r\ndX\r\n0\r\n\r\n"), OK, Some("ready")), no("ready"));
    assert_eq!(judge(&chunked("3\r\nrea\r\n"), OK, Some("ready")), Err(Failure::Closed(Stage::Rest)));
    assert_eq!(judge(&chunked("ready"), OK, Some("ready")), Err(Failure::Malformed("chunks")));
}

#[test]
fn lengths_that_make_no_sense_are_refused() {
    for lengths in [
        "Content-Length: -1",
        "Content-Length: +1",
        "Content-Length:",
        "Content-Length: 1\r\nContent-Length: 2",
    ] {
        let answer = format!("HTTP/1.1 200 OK\r\n{lengths}\r\n\r\nok");
        assert_eq!(
            judge(answer.as_bytes(), OK, Some("ok")),
            Err(Failure::Malformed("Content-Length")),
            "{lengths}"
        );
    }
    let huge = b"HTTP/1.1 200 OK\r\nContent-Length: 18446744073709551615\r\n\r\nok";
    assert_eq!(judge(huge, OK, Some("ok")), Ok(()));
}

#[test]
fn the_text_counts_within_the_first_64_kib_only() {
    let answer = |before: usize| {
        let mut answer = b"HTTP/1.1 200 OK\r\n\r\n".to_vec();
        answer.resize(answer.len() + before, b'x');
        answer.extend_from_slice(b"ready");
        answer.resize(answer.len() + 100_000, b'x');
        answer
    };
    assert_eq!(judge_cut(&answer(BODY_BYTES_MAX - 5), OK, Some("ready"), 4096), Ok(()));
    assert_eq!(judge_cut(&answer(BODY_BYTES_MAX - 4), OK, Some("ready"), 4096), no("ready"));
    // What goes on forever is not read forever.
    let pattern = Pattern::new("ready");
    let mut reader = Answer::new(OK, Some(&pattern));
    assert_eq!(reader.push(b"HTTP/1.1 200 OK\r\n\r\n"), None);
    let rounds = (1..).find(|_| reader.push(&[b'r'; 1024]).is_some());
    assert_eq!(rounds, Some(64));
}

#[test]
fn an_answer_of_http2_is_judged_by_the_same_measure() {
    let pattern = Pattern::new("ready");
    let judged = |status: u16, body: &[u8], pattern: Option<&Pattern>| {
        let mut answer = Http2Answer::new(OK, pattern);
        if let Some(verdict) = answer.head(status) {
            return verdict;
        }
        let verdict = body.chunks(4096).find_map(|piece| answer.push(piece));
        verdict.unwrap_or_else(|| answer.end())
    };
    assert_eq!(judged(200, b"", None), Ok(()));
    assert_eq!(judged(503, b"ready", Some(&pattern)), Err(Failure::Status(503)));
    assert_eq!(judged(200, b"is ready.", Some(&pattern)), Ok(()));
    assert_eq!(judged(200, b"", Some(&pattern)), no("ready"));
    let late = |before: usize| [&vec![b'x'; before][..], b"ready", &[b'x'; 9000]].concat();
    assert_eq!(judged(200, &late(BODY_BYTES_MAX - 5), Some(&pattern)), Ok(()));
    assert_eq!(judged(200, &late(BODY_BYTES_MAX - 4), Some(&pattern)), no("ready"));
}

proptest! {
    /// Whether the text is found depends on the body alone: not on its framing, nor on where the reads cut it.
    #[test]
    fn framing_and_cuts_do_not_matter(body in "[ab]{0,80}", text in "[ab]{1,4}", chunk in 1_usize..20, cut in 1_usize..50) {
        let expected = if body.contains(&text) { Ok(()) } else { no(&text) };
        let mut chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_owned();
        for piece in body.as_bytes().chunks(chunk) {
            chunked += &format!("{:x}\r\n{}\r\n", piece.len(), std::str::from_utf8(piece).unwrap());
        }
        chunked += "0\r\n\r\n";
        let plain = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        let closed = format!("HTTP/1.1 200 OK\r\n\r\n{body}");
        for answer in [chunked, plain, closed] {
            prop_assert_eq!(&judge_cut(answer.as_bytes(), OK, Some(&text), cut), &expected, "{}", answer);
        }
    }

    /// An answer is accepted with the last byte of its head, never before.
    #[test]
    fn a_head_is_judged_when_complete(cut in 0_usize..40) {
        let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
        let cut = cut.min(answer.len());
        let expected = (cut == answer.len()).then_some(Ok(()));
        prop_assert_eq!(Answer::new(OK, None).push(&answer[..cut]), expected);
    }

    #[test]
    fn noise_never_panics(
        noise in proptest::collection::vec(any::<u8>(), 0..200), start in 0_usize..4, cut in 1_usize..50
    ) {
        let starts: [&[u8]; 4] =
            [b"", b"HTTP/1.1 ", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"];
        let answer = [starts[start], &noise].concat();
        let _verdict = judge_cut(&answer, OK, Some("needle"), cut);
    }
}

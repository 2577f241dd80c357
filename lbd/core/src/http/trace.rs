//! The trace that a request belongs to (W3C Trace Context), and what targets are told of it.

use std::fmt;

use common::config::SampleShare;

use super::framing::Field;

/// What `traceparent` says: `00-TRACE-SPAN-FLAGS`, all of it in hexadecimal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceParent {
    /// The trace; not 0.
    pub trace_id: u128,
    /// The span that the request came from; not 0.
    pub span_id: u64,
    /// The flags that are known: [`Self::SAMPLED`] and [`Self::RANDOM`].
    pub flags: u8,
}

/// So many characters version 00 has, and any later one at least.
const LENGTH: usize = 55;

impl TraceParent {
    /// Whoever sent the request may have told of its span.
    pub const SAMPLED: u8 = 1;

    /// The last 56 bits of the trace's id are random (level 2 of the specification).
    pub const RANDOM: u8 = 2;

    /// Reads the value of a field.
    ///
    /// Section 3.2.2: all of it is in lower case; version `ff` and ids that are 0 are invalid; of a later version the parts that
    /// version 00 has are read, if what follows begins with a dash.
    #[must_use]
    pub fn parse(value: &[u8]) -> Option<Self> {
        let (known, rest) = value.split_at_checked(LENGTH)?;
        let version = hexadecimal(&known[..2])?;
        let dashes = [2, 35, 52].into_iter().all(|at| known[at] == b'-');
        let ends = rest.is_empty() || (version > 0 && rest.starts_with(b"-"));
        if !dashes || !ends || version == 0xff {
            return None;
        }
        let trace_id = hexadecimal(&known[3..35]).filter(|id| *id > 0)?;
        let span_id =
            hexadecimal(&known[36..52]).and_then(|id| u64::try_from(id).ok()).filter(|id| *id > 0)?;
        let flags = hexadecimal(&known[53..55]).and_then(|flags| u8::try_from(flags).ok())?;
        Some(Self { trace_id, span_id, flags: flags & (Self::SAMPLED | Self::RANDOM) })
    }

    /// What the fields of a request say. Nothing if there are several `traceparent`s: nobody knows which one counts.
    #[must_use]
    pub fn of(fields: &[Field<'_>]) -> Option<Self> {
        let mut values = fields.iter().filter(|field| field.is(TRACEPARENT)).map(|field| field.value);
        let only = values.next().filter(|_| values.next().is_none())?;
        Self::parse(only)
    }
}

impl fmt::Display for TraceParent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{:032x}-{:016x}-{:02x}", self.trace_id, self.span_id, self.flags)
    }
}

/// At most 32 digits, none of them a capital letter.
fn hexadecimal(digits: &[u8]) -> Option<u128> {
    digits.iter().try_fold(0, |number: u128, digit| {
        let value = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        Some(number << 4 | u128::from(value))
    })
}

const TRACEPARENT: &str = "traceparent";
const TRACESTATE: &str = "tracestate";

/// Of what other systems have said of a trace, so many bytes are told (section 3.3.1.1: 512 "at least").
const STATE_BYTES_MAX: usize = 512;

/// A request's place in its trace, where spans are told to somebody.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trace {
    /// The trace.
    pub id: u128,
    /// The span that the request came from; none for one that begins here.
    pub parent: Option<u64>,
    /// The request's own span.
    pub span: u64,
    /// Whether that is told.
    pub sampled: bool,
    /// What other systems have said of the trace; empty unless it is sampled.
    pub state: String,
    flags: u8,
}

impl Trace {
    /// The trace of a request with these fields: its own, if it says one, else a new one. `ids` are numbers for a trace and for a span.
    ///
    /// Whether it is sampled is what a sender whose word is `trusted` says, and else follows from the trace's id, so that everybody
    /// who looks at as large a share tells of the same traces.
    #[must_use]
    pub fn begin(fields: &[Field<'_>], trusted: bool, share: SampleShare, ids: (u128, u64)) -> Self {
        let (id, span) = (ids.0.max(1), ids.1.max(1));
        let Some(parent) = TraceParent::of(fields) else {
            let sampled = is_in(share, id);
            let flags = if sampled { TraceParent::SAMPLED } else { 0 };
            return Self { id, parent: None, span, sampled, state: String::new(), flags };
        };
        let id = parent.trace_id;
        let sampled = if trusted { parent.flags & TraceParent::SAMPLED > 0 } else { is_in(share, id) };
        let state = if sampled { state(fields) } else { String::new() };
        let flags = TraceParent::SAMPLED | (parent.flags & TraceParent::RANDOM);
        Self { id, parent: Some(parent.span_id), span, sampled, state, flags }
    }

    /// The `traceparent` for targets; none if that of the client goes on. A span that nobody is told of is nobody's parent.
    #[must_use]
    pub fn for_target(&self) -> Option<TraceParent> {
        let own = self.sampled || self.parent.is_none();
        own.then_some(TraceParent { trace_id: self.id, span_id: self.span, flags: self.flags })
    }

    /// Whether a field of the client's is not taken over. Section 3.3: without a valid `traceparent`, `tracestate` says nothing.
    #[must_use]
    pub fn replaces(&self, name: &[u8]) -> bool {
        let is = |known: &str| name.eq_ignore_ascii_case(known.as_bytes());
        (is(TRACEPARENT) && self.for_target().is_some()) || (is(TRACESTATE) && self.parent.is_none())
    }
}

/// Whether a trace is among those of a share, by the last 56 bits of its id, which are the random ones: the traces with the largest.
fn is_in(share: SampleShare, id: u128) -> bool {
    let last = u64::try_from(id & u128::from(u64::MAX)).unwrap_or_default();
    share.takes(!(last << 8))
}

/// All that is said of a trace, in one list.
fn state(fields: &[Field<'_>]) -> String {
    let values = fields.iter().filter(|field| field.is(TRACESTATE));
    let texts: Vec<&str> = values.filter_map(|field| std::str::from_utf8(field.value).ok()).collect();
    let state = texts.join(",");
    let plain = state.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ');
    if plain && state.len() <= STATE_BYTES_MAX { state } else { String::new() }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: u128 = 0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736;
    const SPAN: u64 = 0x00f0_67aa_0ba9_02b7;

    fn parse(value: &str) -> Option<TraceParent> {
        TraceParent::parse(value.as_bytes())
    }

    fn fields<'f>(pairs: &[(&'f str, &'f str)]) -> Vec<Field<'f>> {
        pairs.iter().map(|(name, value)| Field { name: name.as_bytes(), value: value.as_bytes() }).collect()
    }

    /// The examples of the specification, section 3.2.2.5 and 3.2.4.
    #[test]
    fn the_specification_s_examples_are_read() {
        let of = |flags| Some(TraceParent { trace_id: TRACE, span_id: SPAN, flags });
        let valid = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        assert_eq!(parse(valid), of(1));
        assert_eq!(of(1).unwrap().to_string(), valid);
        assert_eq!(parse("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00"), of(0));
        // Later versions: what is known of them is read, and sent on as version 00.
        assert_eq!(parse("cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"), of(1));
        assert_eq!(
            parse("cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-what-the-future-brings"),
            of(1)
        );
        // Flags that are not known are left out.
        assert_eq!(parse("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-ff"), of(3));
    }

    #[test]
    fn what_is_invalid_is_no_traceparent() {
        for bad in [
            "",
            "00",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-011",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-what-the-future-brings",
            "cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01.what-the-future-brings",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "0g-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4bf92f3577b34da6a3ce929d0e0e473-600f067aa0ba902b7-01",
            "00_4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-x1",
        ] {
            assert_eq!(parse(bad), None, "{bad}");
        }
        let twice = fields(&[
            ("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
            ("Traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
        ]);
        assert_eq!(TraceParent::of(&twice), None);
        assert!(TraceParent::of(&twice[1..]).is_some(), "in any case of its name");
    }

    #[test]
    fn a_trace_goes_on_with_this_hop_s_span_as_the_parent_if_that_is_told() {
        let came = fields(&[
            ("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-03"),
            ("tracestate", "rojo=00f067aa0ba902b7"),
            ("tracestate", "congo=t61rcWkgMzE"),
        ]);
        let trace = Trace::begin(&came, false, SampleShare::ALL, (9, 0xabc));
        assert_eq!((trace.id, trace.parent, trace.sampled), (TRACE, Some(SPAN), true));
        assert_eq!(trace.state, "rojo=00f067aa0ba902b7,congo=t61rcWkgMzE");
        let sent = trace.for_target().unwrap();
        assert_eq!(sent.to_string(), "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000abc-03");
        assert!(trace.replaces(b"Traceparent") && !trace.replaces(b"tracestate"));
        // One that is not told goes on as it came.
        let least = SampleShare::of_millionths(1).unwrap();
        let untold = Trace::begin(&came, false, least, (9, 0xabc));
        assert_eq!((untold.sampled, untold.for_target(), untold.state.as_str()), (false, None, ""));
        assert!(!untold.replaces(b"traceparent") && !untold.replaces(b"tracestate"));
    }

    #[test]
    fn what_is_invalid_begins_a_new_trace_without_its_state() {
        let came = fields(&[("traceparent", "00-nonsense"), ("tracestate", "rojo=1")]);
        for (share, flags) in [(SampleShare::ALL, "01"), (SampleShare::of_millionths(1).unwrap(), "00")] {
            let trace = Trace::begin(&came, true, share, (0xfed, 0xabc));
            assert_eq!((trace.id, trace.parent), (0xfed, None));
            assert!(trace.replaces(b"traceparent") && trace.replaces(b"TraceState"));
            let sent = trace.for_target().unwrap().to_string();
            assert_eq!(sent, format!("00-00000000000000000000000000000fed-0000000000000abc-{flags}"));
        }
        let none = Trace::begin(&[], false, SampleShare::ALL, (0, 0));
        assert_eq!((none.id, none.span), (1, 1), "an id is never 0");
    }

    #[test]
    fn whose_word_is_taken_says_what_is_sampled() {
        let least = SampleShare::of_millionths(1).unwrap();
        for (flags, sampled) in [("00", false), ("01", true)] {
            let value = format!("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-{flags}");
            let came = fields(&[("traceparent", &value)]);
            assert_eq!(Trace::begin(&came, true, least, (9, 9)).sampled, sampled);
            assert_eq!(Trace::begin(&came, true, SampleShare::ALL, (9, 9)).sampled, sampled);
            assert!(!Trace::begin(&came, false, least, (9, 9)).sampled, "a stranger's does not count");
        }
    }

    #[test]
    fn a_share_has_the_traces_with_the_largest_ends() {
        let quarter = SampleShare::of_millionths(250_000).unwrap();
        let with = |last: u128| is_in(quarter, 0xffff_ffff_ffff_ffff_ff00_0000_0000_0000 | last);
        assert!(!with(0) && !with(0x00bf_ffff_ffff_ffff));
        assert!(with(0x00c0_0000_0000_0001) && with(0x00ff_ffff_ffff_ffff));
        assert!(is_in(SampleShare::ALL, 1));
    }

    #[test]
    fn a_state_that_is_too_long_or_no_text_is_not_told() {
        let parent = ("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01");
        let long = format!("a={}", "x".repeat(600));
        let of = |state: &str| {
            let came = fields(&[parent, ("tracestate", state)]);
            Trace::begin(&came, false, SampleShare::ALL, (9, 9)).state
        };
        assert_eq!((of(&long), of("a=\u{e9}"), of("a=1")), (String::new(), String::new(), "a=1".to_owned()));
    }
}

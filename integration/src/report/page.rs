//! A run as one HTML file that needs nothing else: the result as a table, the timeline drawn, and every event listed.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use common::time::Instant;

use super::draw;
use super::statistics::ms;
use crate::lab::addresses::Mac;
use crate::lab::clock::Window;
use crate::lab::probe::{DownloadReport, EchoReport};
use crate::lab::timeline::{EventKind, Timeline};
use crate::scenario::{Measured, Observation, failure_name};

/// One event of a run.
#[derive(Clone, Debug)]
pub struct Chapter {
    /// What happened, in a few words.
    pub name: String,
    /// What that is, in a sentence or two.
    pub description: String,
    /// Whether it was done on purpose, or something was broken or mended.
    pub kind: EventKind,
    /// When it was done.
    pub event: Window,
    /// What came of it.
    pub measured: Measured,
    /// Until when it is drawn from close by at least; when not said, until it was over.
    pub close_up_until: Option<Instant>,
    /// Whose each MAC address is.
    pub names: BTreeMap<Mac, String>,
}

/// What lasted, or did not, while roles moved: connections, a download and clients with datagrams through each mode.
#[derive(Clone, Debug)]
pub struct Act {
    /// Which chapter is the first of it; all later ones are too.
    pub first: usize,
    /// When all connections were there.
    pub begun: Instant,
    /// When it was over.
    pub ended: Instant,
    /// Each mode.
    pub lasting: Vec<Lasting>,
}

/// Connections, a download and, where there are any, clients with datagrams through services of a mode, all there before the first event of
/// the act. All of it is to go on through each: what a proxy has in its sockets is on the node that is not lost.
#[derive(Clone, Debug)]
pub struct Lasting {
    /// The service.
    pub name: String,
    /// How it forwards, and what that means for them.
    pub description: String,
    /// What came of them after each event.
    pub after: Vec<After>,
    /// The connections, as they were in the end.
    pub echo: EchoReport,
    /// The download, as it was in the end.
    pub download: DownloadReport,
    /// Whether that is the whole file, with the right sum.
    pub whole: bool,
    /// The mode of the service for datagrams; none where there are none.
    pub datagrams_by: Option<String>,
    /// How many clients talk by datagrams.
    pub clients: usize,
}

/// What was left after an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct After {
    /// Connections that went on.
    pub alive: usize,
    /// The longest time that a message of one of these took to come back.
    pub worst_stall: Duration,
    /// Whether the download went on.
    pub downloads: bool,
    /// Clients whose datagrams came back again.
    pub answered: usize,
    /// Datagrams that had not come back, from the beginning on, although later ones of the same client had.
    pub lost_so_far: u64,
    /// The longest time that one of these clients was without an answer.
    pub silence: Duration,
}

impl Act {
    /// The modes of the services for datagrams, e.g. `udp, nat, dsr`.
    #[must_use]
    pub fn datagrams_by(&self) -> String {
        self.lasting.iter().filter_map(|one| one.datagrams_by.as_deref()).collect::<Vec<_>>().join(", ")
    }
}

impl Lasting {
    /// How many connections there were.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.echo.connections.len()
    }

    /// How many datagrams were lost with an event of the act, or since the one before.
    #[must_use]
    pub fn lost(&self, place: usize) -> u64 {
        let so_far = |place: usize| self.after.get(place).map_or(0, |after| after.lost_so_far);
        so_far(place).saturating_sub(place.checked_sub(1).map_or(0, so_far))
    }

    /// What became of clients with datagrams in an event of the act, in a few words; a dash where there are none.
    #[must_use]
    pub fn datagrams_text(&self, place: usize) -> String {
        let Some(after) = self.after.get(place) else { return String::new() };
        if self.datagrams_by.is_none() {
            return "–".to_owned();
        }
        let (answered, lost) = (after.answered, self.lost(place));
        format!("{answered} of {}, {lost} lost, {} ms", self.clients, ms(after.silence))
    }

    /// What became of the download, in a few words.
    #[must_use]
    pub fn download_text(&self) -> String {
        let bytes = self.download.bytes >> 20;
        match &self.download.broken {
            Some((_, failure)) => {
                format!("{} after {bytes} of {} MiB", failure_name(*failure), self.download.length >> 20)
            }
            None if self.whole => format!("{bytes} MiB, sum right"),
            None => format!("{bytes} MiB, WRONG SUM"),
        }
    }
}

const STYLE: &str = "
:root { color-scheme: light dark; --ink: #1d2733; --soft: #5d6b7a; --paper: #ffffff; --line: #d5dce3; --wash: #f3f6f9;
  --good: #2e8b57; --bad: #d1302f; --active: #1f6feb; --backup: #b9c7d6; --init: #e4b84d; --fault: #e07b39; --off: #e8ebee; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e9ee; --soft: #9aa7b4; --paper: #12171d; --line: #323c47;
  --wash: #1a2129; --good: #4cbb7f; --bad: #ff6b63; --active: #3f86f5; --backup: #44515f; --init: #9c7a1f; --fault: #b35f2a; --off: #232b33; } }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
h1 { margin-bottom: 0; } h2 { margin-top: 2.5rem; } p.lead, .soft { color: var(--soft); }
table { border-collapse: collapse; width: 100%; } th, td { text-align: left; padding: .35rem .8rem .35rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }
th { color: var(--soft); font-weight: 600; } td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; padding-right: 1.6rem; }
svg { width: 100%; height: auto; display: block; background: var(--wash); border-radius: 8px; padding: .6rem; box-sizing: border-box; }
svg text { font: 12px system-ui, sans-serif; fill: var(--ink); } svg .name { fill: var(--soft); } svg .tick { text-anchor: middle; fill: var(--soft); font-size: 11px; }
.good { stroke: var(--good); fill: none; } .bad { stroke: var(--bad); fill: none; } .mark { stroke: var(--ink); stroke-dasharray: 3 3; } .axis { stroke: var(--line); }
.active { fill: var(--active); } .backup { fill: var(--backup); } .init, .silent { fill: var(--init); } .fault { fill: var(--fault); } .off { fill: var(--off); }
.owner { fill: var(--backup); } .both { fill: var(--bad); } svg .active-text, svg .both-text { fill: #ffffff; } svg .off-text { fill: var(--soft); }
b.gone { color: var(--bad); }
.key span { margin-right: 1.2rem; white-space: nowrap; } .key i { display: inline-block; width: .8rem; height: .8rem; border-radius: 3px; margin-right: .35rem; vertical-align: -1px; }
details { margin-top: 2.5rem; } summary { cursor: pointer; }
";

/// The page.
#[must_use]
pub fn render(timeline: &Timeline, observation: &Observation, chapters: &[Chapter], act: &Act) -> String {
    let title = escaped(&timeline.title);
    let mut body = format!("<h1>{title}</h1>\n");
    let attempts = observation.connects.attempts.len();
    let failed = observation.connects.failed();
    // Writing to a string cannot fail.
    writeln!(
        body,
        "<p class=\"lead\">{attempts} new connections through {} to nginx, one every millisecond: {failed} failed. \
         Each is a TCP connection, a request and the head of its answer, within 250 ms.</p>",
        observation.vip
    )
    .ok();
    body.push_str(&results(chapters));
    body.push_str(&second_act(observation, chapters, act));
    body.push_str("<h2>The whole run</h2>\n");
    body.push_str(KEY);
    body.push_str(&draw::overview(
        observation,
        chapters,
        observation.connects.begun,
        observation.connects.ended,
    ));
    for (index, chapter) in chapters.iter().enumerate() {
        write!(
            body,
            "<h2>{} · {}</h2>\n<p>{}</p>\n{}\n",
            index + 1,
            escaped(&chapter.name),
            escaped(&chapter.description),
            draw::close_up(observation, chapter)
        )
        .ok();
    }
    body.push_str(&events(timeline));
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<title>{title}</title>\n\
         <style>{STYLE}</style>\n</head>\n<body>\n{body}</body>\n</html>\n"
    )
}

const KEY: &str = "<p class=\"key soft\"><span><i style=\"background:var(--good)\"></i>served (higher: slower, up to 50 ms)</span>\
<span><i style=\"background:var(--bad)\"></i>failed</span><span><i style=\"background:var(--active)\"></i>active</span>\
<span><i style=\"background:var(--backup)\"></i>backup</span><span><i style=\"background:var(--init)\"></i>starting</span>\
<span><i style=\"background:var(--off)\"></i>not running</span></p>\n";

fn results(chapters: &[Chapter]) -> String {
    let mut table = "<table>\n<tr><th></th><th>event</th><th class=\"number\">failed connections</th>\
                     <th class=\"number\">longest gap</th><th>who answered</th></tr>\n"
        .to_owned();
    for (index, chapter) in chapters.iter().enumerate() {
        let measured = &chapter.measured;
        let kinds =
            if measured.failed == 0 { String::new() } else { format!(" ({})", measured.failures_text()) };
        writeln!(
            table,
            "<tr><td class=\"soft\">{}</td><td>{}</td><td class=\"number\">{}{}</td><td class=\"number\">{} ms</td><td>{}</td></tr>",
            index + 1,
            escaped(&chapter.name),
            measured.failed,
            escaped(&kinds),
            ms(measured.gap),
            escaped(&measured.answered_text()),
        )
        .ok();
    }
    table + "</table>\n"
}

fn second_act(observation: &Observation, chapters: &[Chapter], act: &Act) -> String {
    let own = chapters.get(act.first..).unwrap_or_default();
    let connections = act.lasting.first().map_or(0, Lasting::connections);
    let clients = act.lasting.iter().map(|one| one.clients).max().unwrap_or_default();
    let mut text = format!(
        "<h2>What lasts</h2>\n<p>Through each mode {connections} connections, each with a message every 100 ms that has to come back, a \
         download in progress, and {clients} clients that send a datagram as often, each from one port, to a service of {}. All were there \
         before event {}.</p>\n<ul>\n",
        escaped(&act.datagrams_by()),
        act.first + 1
    );
    for one in &act.lasting {
        writeln!(text, "<li><b>{}</b>: {}</li>", escaped(&one.name), escaped(&one.description)).ok();
    }
    text.push_str("</ul>\n<table>\n<tr><th>went on after, with the longest wait for a message</th>");
    for one in &act.lasting {
        write!(text, "<th class=\"number\">{}</th>", escaped(&one.name)).ok();
    }
    text.push_str("</tr>\n");
    for (index, chapter) in own.iter().enumerate() {
        write!(text, "<tr><td>{} · {}</td>", act.first + index + 1, escaped(&chapter.name)).ok();
        for one in &act.lasting {
            let cell = one.after.get(index).map_or_else(String::new, |after| survivors(one, *after));
            write!(text, "<td class=\"number\">{cell}</td>").ok();
        }
        text.push_str(
            "</tr>\n<tr><td class=\"soft\">its datagrams: clients answered again, the longest wait</td>",
        );
        for one in &act.lasting {
            let gone = one.after.get(index).is_some_and(|after| after.answered < one.clients);
            let cell = one.datagrams_text(index);
            let cell = if gone { format!("<b class=\"gone\">{cell}</b>") } else { cell };
            write!(text, "<td class=\"number\">{cell}</td>").ok();
        }
        text.push_str("</tr>\n");
    }
    text.push_str("<tr><td>the download</td>");
    for one in &act.lasting {
        write!(text, "<td class=\"number\">{}</td>", escaped(&one.download_text())).ok();
    }
    text.push_str("</tr>\n</table>\n");
    text.push_str(LASTING_KEY);
    text + &draw::lasting(observation, own, act)
}

/// `200 of 200, 12 ms`; in red when some are gone.
fn survivors(lasting: &Lasting, after: After) -> String {
    let all = lasting.connections();
    let (alive, gone) = (after.alive, after.alive < all);
    let count = format!("{alive} of {all}");
    let count = if gone { format!("<b class=\"gone\">{count}</b>") } else { count };
    if alive == 0 { count } else { format!("{count}, {} ms", ms(after.worst_stall)) }
}

const LASTING_KEY: &str = "<p class=\"key soft\"><span><i style=\"background:var(--good)\"></i>connections that go on; bytes of the download</span>\
<span><i style=\"background:var(--bad)\"></i>broken</span></p>\n";

/// Every event, in a list that opens on demand; the announcements, which are repeated, are left out.
fn events(timeline: &Timeline) -> String {
    let mut text = "<details>\n<summary>Everything that happened, in order</summary>\n<table>\n\
                    <tr><th class=\"number\">s</th><th>where</th><th>what</th></tr>\n"
        .to_owned();
    for event in timeline.events.iter().filter(|event| event.kind != EventKind::Announcement) {
        let millis = event.at_ns / 1_000_000;
        writeln!(
            text,
            "<tr><td class=\"number\">{}.{:03}</td><td>{}</td><td>{}</td></tr>",
            millis / 1000,
            millis % 1000,
            escaped(&event.host),
            escaped(&event.text)
        )
        .ok();
    }
    text + "</table>\n</details>\n"
}

/// Text for HTML.
pub(super) fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::addresses::{mac, vip4};
    use crate::lab::probe::{
        Attempt, ConnectReport, EchoConnection, Failure, RoleChange, RoleReport, Seen, WatchReport,
    };

    fn at(ms: u64) -> Instant {
        Instant::from_nanos(ms * 1_000_000)
    }

    #[test]
    fn the_page_shows_every_failure_and_needs_nothing_from_elsewhere() {
        let attempt = |ms| Attempt {
            start: at(ms),
            end: at(ms + 1),
            failure: (1000..1007).contains(&ms).then_some(Failure::Timeout),
            target: None,
        };
        let connects = ConnectReport {
            attempts: (0..2000).map(attempt).collect(),
            begun: at(0),
            ended: at(1999),
            ..ConnectReport::default()
        };
        let change = |node: &str, role: &str, ms| RoleChange {
            node: node.to_owned(),
            instance: "web".to_owned(),
            seen: Seen::Role(role.to_owned()),
            before: at(ms),
            at: at(ms),
        };
        let roles = RoleReport {
            changes: vec![change("a", "active", 0), change("b", "backup", 0), change("b", "active", 1005)],
            ended: at(2000),
        };
        let vip = vip4(0).into();
        let observation =
            Observation { connects, watch: WatchReport::default(), roles, vip, ended: at(2000) };
        let event = Window { before: at(999), after: at(1000) };
        let measured = observation.measure(event, at(2000), |_| None);
        let chapter = Chapter {
            name: "power <off>".to_owned(),
            description: "a & b".to_owned(),
            kind: EventKind::Fault,
            event,
            measured,
            close_up_until: None,
            names: BTreeMap::from([(mac(1), "a".to_owned())]),
        };
        let mut timeline = Timeline::begin("Tandem");
        timeline.add_roles(&observation.roles);
        timeline.end();
        let mut connections = vec![EchoConnection::default(); 32];
        connections[7].broken = Some((at(1100), Failure::Reset));
        let download = DownloadReport {
            bytes: 3 << 20,
            length: 3 << 20,
            progress: (0..20).map(|step| (at(step * 100), step << 17)).collect(),
            ..DownloadReport::default()
        };
        let lasting = Lasting {
            name: "nat <1>".to_owned(),
            description: "rewrites".to_owned(),
            after: vec![After {
                alive: 31,
                worst_stall: Duration::from_millis(420),
                downloads: true,
                answered: 19,
                lost_so_far: 3,
                silence: Duration::from_millis(104),
            }],
            echo: EchoReport { connections, ..EchoReport::default() },
            download,
            whole: true,
            datagrams_by: Some("udp".to_owned()),
            clients: 20,
        };
        let without = Lasting {
            name: "http".to_owned(),
            description: "reads requests".to_owned(),
            echo: EchoReport { connections: vec![EchoConnection::default(); 32], ..EchoReport::default() },
            datagrams_by: None,
            clients: 0,
            ..lasting.clone()
        };
        let act = Act { first: 0, begun: at(100), ended: at(1900), lasting: vec![lasting, without] };
        let page = render(&timeline, &observation, &[chapter], &act);

        assert!(page.contains("2000 new connections through 10.77.0.50 to nginx"), "{page}");
        assert!(page.contains("7 failed."));
        let datagrams = "<b class=\"gone\">19 of 20, 3 lost, 104 ms</b>";
        for shown in [
            "31 of 32</b>, 420 ms",
            "nat &lt;1&gt;",
            "3 MiB, sum right",
            datagrams,
            "20 clients",
            "service of udp.",
            "<b>http</b>: reads requests",
            "<td class=\"number\">–</td>",
        ] {
            assert!(page.contains(shown), "{shown}: {page}");
        }
        assert!(page.contains("power &lt;off&gt;") && !page.contains("<off>"));
        // One connection is gone for 800 of 1800 ms, which 280 bars show, and none of the other mode's. Seven bars of the failed ones in
        // the close-up; in the overview they share one.
        let bad =
            page.split("class=\"bad\"").map(|before| before.rsplit("<path d=").next().unwrap_or_default());
        let bars: Vec<usize> = bad.map(|path| path.matches('M').count()).collect();
        assert_eq!(bars[..6], [125, 0, 0, 0, 1, 7], "{bars:?}");
        for outside in ["http://", "https://", "src=", "url(", "@import"] {
            assert!(!page.contains(outside), "{outside}");
        }
        assert_eq!(page.matches("<svg").count(), page.matches("</svg>").count());
        assert_eq!(Duration::ZERO, observation.roles.longest_both_active("other"));
    }
}

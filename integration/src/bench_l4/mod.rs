//! What the forwarding program costs for each packet, beside the least that forwards: one look-up of the 5-tuple and a MAC
//! rewrite. Both are run by the kernel (`BPF_PROG_RUN`) in one thread, so only their ratio says something.

pub mod expiry;
pub mod machine;
pub mod measure;
pub mod memory;
pub mod network;
pub mod object;
pub mod world;

use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};

use anyhow::{Context, Result, ensure};
use aya::programs::Xdp;
use serde::Serialize;

use crate::bench_tcp::load::stay_on;
use crate::report::table::{Align, Table};
use machine::{Machine, Taken};
use measure::{ACK, MSS, Meter, Minimal, Packets, SYN, VIP, client};
use object::{FORWARD, Kind, XDP_REDIRECT, XDP_TX, load};
use world::{Mode, Service, Target, Way, World};

/// Flows in the table when it is full.
const FLOWS: u32 = 1_000_000;
/// Room in the table.
const FLOWS_MAX: u32 = 1 << 20;
/// Packets of a measurement of known flows.
const REPEAT: u32 = 2_000_000;
/// Flows that are opened and then established together: so many the half-open table holds with next to no losses.
const TOGETHER: u32 = 4096;
/// Where all of it runs.
const PROCESSOR: usize = 0;
/// Targets of the service: their ports in one node's half are used up to a quarter, so that no flow finds none.
pub const TARGETS: u16 = 128;

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Subject {
    /// `mode = "dsr"`, `dsr = "l2"`
    L2,
    /// `mode = "dsr"`, `dsr = "ipip"`
    Ipip,
    /// `mode = "nat"`
    Nat,
}

/// Of which packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Case {
    /// One flow.
    Hot,
    /// A thousand flows.
    Thousand,
    /// A million flows.
    Million,
    /// The first packet of each flow.
    First,
    /// The second packet, by which a flow gets into the table.
    Second,
    /// Answers of one flow's target, where they pass here.
    Answer,
    /// Answers of a million flows' targets, to nearly as many addresses: the kernel is asked for the way to each.
    AnswerMillion,
}

impl Subject {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::L2, Self::Ipip, Self::Nat];

    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::L2 => "dsr l2",
            Self::Ipip => "dsr ipip",
            Self::Nat => "nat",
        }
    }
}

impl Case {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Hot,
        Self::Thousand,
        Self::Million,
        Self::First,
        Self::Second,
        Self::Answer,
        Self::AnswerMillion,
    ];

    /// Those that there are of a subject, in the same order.
    pub fn of(subject: Subject) -> impl Iterator<Item = Self> {
        let answers = |case: &Self| matches!(case, Self::Answer | Self::AnswerMillion);
        Self::ALL.into_iter().filter(move |case| !answers(case) || subject == Subject::Nat)
    }

    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Hot => "1 flow",
            Self::Thousand => "1,000 flows",
            Self::Million => "1,000,000 flows",
            Self::First => "new flow, first packet",
            Self::Second => "new flow, second packet",
            Self::Answer => "1 flow, answers",
            Self::AnswerMillion => "1,000,000 flows, answers",
        }
    }

    /// At most so many times the minimal program's time. A table with a thousand flows is as hot as with one: the minimal program takes the same
    /// time for both.
    #[must_use]
    pub const fn ratio_max(self, subject: Subject) -> Option<f64> {
        match (self, subject) {
            (Self::Hot | Self::Thousand, Subject::L2)
            | (Self::Million | Self::AnswerMillion, Subject::Nat) => Some(2.0),
            (Self::Million, Subject::L2) => Some(1.3),
            (Self::Hot | Self::Thousand | Self::Million, Subject::Ipip) => Some(3.3),
            (Self::Hot | Self::Thousand | Self::Answer, Subject::Nat) => Some(3.0),
            (Self::First, Subject::L2 | Subject::Ipip) => Some(1.5),
            (Self::First, Subject::Nat) => Some(2.5),
            _ => None,
        }
    }

    const fn flows(self) -> u32 {
        match self {
            Self::Hot | Self::Answer => 1,
            Self::Thousand => 1000,
            Self::Million | Self::First | Self::Second | Self::AnswerMillion => FLOWS,
        }
    }
}

/// One line of the table: medians.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// What.
    pub subject: Subject,
    /// Of which packets.
    pub case: Case,
    /// Nanoseconds of the forwarding program for a packet.
    pub ns: f64,
    /// Those of the minimal one.
    pub minimal_ns: f64,
    /// The median of the runs' ratios.
    pub ratio: f64,
    /// What a packet takes besides time.
    pub taken: Taken,
    /// Whether it is what it has to be.
    pub met: bool,
}

/// A configuration with one service and its targets.
///
/// # Errors
/// What the kernel said.
pub fn scene(subject: Subject) -> Result<World> {
    let mut world = World::new(load(FLOWS_MAX, &[Kind::Xdp])?, u32::MAX)?;
    let vip = IpAddr::V4(*VIP.ip());
    world.vip(1, vip)?;
    // As `lbd` has it: with nat, SYNs pass both ways, and each end's largest segment is looked at.
    let (mode, mss_max) = if subject == Subject::Nat { (Mode::Nat, MSS) } else { (Mode::Dsr, 0) };
    world.service(1, Service { mode, flags: 0, ring: 1, mss_max })?;
    world.route(IpAddr::V4(*client(0).ip()), [2, 0, 0, 0, 9, 9])?;
    world.listener((1, vip), VIP.port(), 6, 1)?;
    let targets: Vec<u16> = (1..=TARGETS).collect();
    world.ring(1, &targets)?;
    for index in targets {
        let last = u8::try_from(index).context("there are at most 255 targets")?;
        let address = IpAddr::V4(*measure::target(index).ip());
        let way = if subject == Subject::Ipip { Way::Ipip } else { Way::Plain };
        let target = Target {
            state: 1,
            way,
            port: VIP.port(),
            endpoint: index,
            mtu: 1500,
            mac: [2, 0, 0, 0, 1, last],
            address,
            source: vip,
        };
        world.target(index, &target)?;
        if subject == Subject::Nat {
            world.endpoint(index, address, VIP.port(), 6)?;
        }
    }
    Ok(world)
}

/// Nanoseconds of ours and of the minimal program for a packet, without the shim's.
type Pair = (f64, f64);

/// One run of one subject: each of its cases. What is compared is measured right after one another, because other guests of the
/// same host take some of the memory's time, now more and now less.
fn measure_subject(meter: &mut Meter, subject: Subject, world: &World, new: &New) -> Result<Vec<Pair>> {
    let first = meter.forwarding(world, Packets::once(0, FLOWS, SYN))?;
    let mut second = 0.0;
    for from in (0..FLOWS).step_by(TOGETHER as usize) {
        let to = (from + TOGETHER).min(FLOWS);
        meter.forwarding(world, Packets::once(from, to, SYN))?;
        second += meter.forwarding(world, Packets::once(from, to, ACK))? * f64::from(to - from);
        // The few whose half-open entry was pushed out.
        meter.forwarding(world, Packets { repeat: 2 * (to - from), ..Packets::once(from, to, ACK) })?;
    }
    let stored = world.flows()?;
    ensure!(stored > FLOWS as usize * 995 / 1000, "only {stored} of {FLOWS} flows are in the table");
    let known = |meter: &mut Meter, case: Case| -> Result<Pair> {
        let packets = Packets { first: 0, end: case.flows(), flags: ACK, repeat: REPEAT };
        let nothing = meter.minimal(Minimal::Nothing, packets)?;
        let before = meter.minimal(Minimal::Known, packets)?;
        let ours = meter.forwarding(world, packets)?;
        let after = meter.minimal(Minimal::Known, packets)?;
        Ok((ours - nothing, (before + after) / 2.0 - nothing))
    };
    let of_new = new.minimal - new.nothing;
    let second = second / f64::from(FLOWS) - new.nothing_together;
    let mut pairs = Vec::new();
    for case in Case::of(subject) {
        pairs.push(match case {
            Case::First => (first - new.nothing, of_new),
            Case::Second => (second, of_new),
            Case::Answer => {
                // For the minimal program these are just other flows.
                meter.answers(world, FLOWS)?;
                known(meter, case)?
            }
            Case::Hot | Case::Thousand | Case::Million | Case::AnswerMillion => known(meter, case)?,
        });
    }
    Ok(pairs)
}

/// What a packet takes in each case of a subject besides time; how many flows there are makes no difference to that. Needs root: the maps that are
/// filled are the kernel's, too.
///
/// # Errors
/// What the kernel said, or that a packet is not forwarded.
pub fn taken(subject: Subject) -> Result<Vec<(Case, Taken)>> {
    let world = scene(subject)?;
    let mut machine = Machine::new(FORWARD, Kind::Xdp.program())?;
    world.written().iter().try_for_each(|written| machine.write(written))?;
    let mut forward = |packet: &[u8]| -> Result<(Vec<u8>, Taken)> {
        let (outcome, taken) = machine.run(packet)?;
        ensure!([XDP_TX, XDP_REDIRECT].contains(&outcome.verdict), "the verdict is {}", outcome.verdict);
        Ok((outcome.packet, taken))
    };
    // The way to the first one's client is known, and that to the other's is not.
    let (_, first) = forward(&measure::packet(0, SYN))?;
    let (_, second) = forward(&measure::packet(0, ACK))?;
    let (sent, hot) = forward(&measure::packet(0, ACK))?;
    forward(&measure::packet(1, SYN))?;
    let (sent_of_other, _) = forward(&measure::packet(1, ACK))?;
    let mut answered = |sent: &[u8]| -> Result<Taken> {
        let [a, b, c, d, high, low]: [u8; 6] = sent.get(30..36).context("a short packet")?.try_into()?;
        let target = SocketAddrV4::new(Ipv4Addr::new(a, b, c, d), VIP.port());
        Ok(forward(&measure::answer(target, u16::from_be_bytes([high, low]), ACK))?.1)
    };
    let of = |case: Case| -> Result<(Case, Taken)> {
        let taken = match case {
            Case::First => first,
            Case::Second => second,
            Case::Hot | Case::Thousand | Case::Million => hot,
            Case::Answer => answered(&sent)?,
            Case::AnswerMillion => answered(&sent_of_other)?,
        };
        Ok((case, taken))
    };
    Case::of(subject).map(of).collect()
}

/// What new flows cost the minimal program and nothing but the shim, in one long run and in short ones.
struct New {
    minimal: f64,
    nothing: f64,
    nothing_together: f64,
}

/// Fills the minimal program's table.
fn measure_new(meter: &mut Meter) -> Result<New> {
    let all = Packets::once(0, FLOWS, SYN);
    Ok(New {
        minimal: meter.minimal(Minimal::New, all)?,
        nothing: meter.minimal(Minimal::Nothing, all)?,
        nothing_together: nothing_together(meter)?,
    })
}

/// The shim alone, in runs as short as those of second packets: beginning one takes its time.
fn nothing_together(meter: &mut Meter) -> Result<f64> {
    let runs = (0..FLOWS).step_by(8 * TOGETHER as usize);
    let all: Result<Vec<f64>> =
        runs.map(|from| meter.minimal(Minimal::Nothing, Packets::once(from, from + TOGETHER, ACK))).collect();
    let all = all?;
    Ok(all.iter().sum::<f64>() / all.len() as f64)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Measures the subjects `runs` times, and tells `progress` what it has. Needs root.
///
/// # Errors
/// What the kernel said, or that packets were not forwarded.
pub fn run(subjects: &[Subject], runs: u32, progress: impl FnMut(&str) + Send) -> Result<Vec<Row>> {
    stay_on(PROCESSOR).context("choosing a processor")?;
    network::with_clients(|| run_inside(subjects, runs, progress))?
}

/// The same where the kernel knows the way to clients.
fn run_inside(subjects: &[Subject], runs: u32, mut progress: impl FnMut(&str)) -> Result<Vec<Row>> {
    let mut measured: Vec<Vec<Vec<Pair>>> = vec![Vec::new(); subjects.len()];
    for number in 1..=runs {
        for (subject, all) in subjects.iter().zip(&mut measured) {
            let world = scene(*subject)?;
            let mut meter = Meter::new(FLOWS)?;
            let new = measure_new(&mut meter)?;
            let pairs = measure_subject(&mut meter, *subject, &world, &new)?;
            let shown: Vec<String> =
                pairs.iter().map(|(ours, minimal)| format!("{ours:.0}/{minimal:.0}")).collect();
            progress(&format!("{number} {}: {} ns", subject.name(), shown.join(" ")));
            all.push(pairs);
        }
    }
    let mut rows = Vec::new();
    for (subject, all) in subjects.iter().zip(&measured) {
        for (place, (case, taken)) in taken(*subject)?.into_iter().enumerate() {
            let of = |value: fn(Pair) -> f64| median(all.iter().map(|run| value(run[place])).collect());
            let ratio = of(|(ours, minimal)| ours / minimal);
            rows.push(Row {
                subject: *subject,
                case,
                ns: of(|(ours, _)| ours),
                minimal_ns: of(|(_, minimal)| minimal),
                ratio,
                taken,
                met: case.ratio_max(*subject).is_none_or(|most| ratio <= most),
            });
        }
    }
    Ok(rows)
}

/// What does not depend on time.
#[derive(Clone, Debug, Serialize)]
pub struct Sizes {
    /// Instructions of the program as the verifier left them, with all its functions.
    pub instructions: u32,
    /// Steps of the verifier through them.
    pub verified: u32,
    /// What flows take of the maps' memory.
    pub memory: Vec<memory::Row>,
}

impl Sizes {
    /// Whether they are no more than they may be.
    #[must_use]
    pub fn met(&self) -> bool {
        self.memory.iter().all(memory::Row::met)
    }

    /// To read.
    #[must_use]
    pub fn render(&self) -> String {
        format!(
            "program: {} instructions with all its functions, and {} steps of the verifier through them\n\n{}",
            self.instructions,
            self.verified,
            memory::render(&self.memory)
        )
    }
}

/// Instructions of the forwarding program, and bytes of maps for a flow.
///
/// # Errors
/// What the kernel said.
pub fn sizes() -> Result<Sizes> {
    let world = scene(Subject::Nat)?;
    let program = world.object.program(Kind::Xdp.program()).context("no forwarding program")?;
    let info = <&Xdp>::try_from(program)?.info()?;
    let bytes = info.size_translated().context("no size of the program")?;
    let verified = info.verified_instruction_count().context("no number of verified instructions")?;
    Ok(Sizes { instructions: bytes / 8, verified, memory: memory::measure()? })
}

/// The table.
#[must_use]
pub fn render(rows: &[Row]) -> String {
    let mut columns = vec![("", Align::Left), ("", Align::Left)];
    let numbers = ["ns", "minimal", "ratio", "at most", "instructions", "calls", "own calls", ""];
    columns.extend(numbers.map(|name| (name, Align::Right)));
    let mut table = Table::new(&columns);
    for row in rows {
        let most = row.case.ratio_max(row.subject);
        table.row(vec![
            row.subject.name().to_owned(),
            row.case.name().to_owned(),
            format!("{:.0}", row.ns),
            format!("{:.0}", row.minimal_ns),
            format!("{:.2}", row.ratio),
            most.map(|most| format!("{most:.1}")).unwrap_or_default(),
            row.taken.instructions.to_string(),
            row.taken.calls.to_string(),
            row.taken.functions.to_string(),
            if row.met { "" } else { "missed" }.to_owned(),
        ]);
    }
    table.render()
}

/// New flows that one processor takes in a second, from what their packets cost.
#[must_use]
pub fn render_new(rows: &[Row]) -> String {
    let of =
        |subject: Subject, case: Case| rows.iter().find(|row| row.subject == subject && row.case == case);
    let line = |subject: &Subject| {
        let (first, second) = (of(*subject, Case::First)?, of(*subject, Case::Second)?);
        let per_second = |ns: f64| 1e9 / ns;
        Some(format!(
            "{}: {:.0} new flows a second by their first packet alone, {:.0} with the second, by which they get into the table\n",
            subject.name(),
            per_second(first.ns),
            per_second(first.ns + second.ns)
        ))
    };
    Subject::ALL.iter().filter_map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_shows_what_was_missed() {
        assert!(render(&[row(Case::Hot, 90.0)]).contains("missed"));
    }

    #[test]
    fn a_thousand_flows_are_judged_as_one_is() {
        for subject in Subject::ALL {
            let [one, thousand] = [Case::Hot, Case::Thousand].map(|case| case.ratio_max(subject));
            assert!(one.is_some() && one == thousand, "{}: {one:?} {thousand:?}", subject.name());
        }
    }

    #[test]
    fn sizes_are_met_where_all_rows_of_memory_are() {
        let row = |bytes| memory::Row { what: "dsr".to_owned(), bytes, bound: String::new() };
        let sizes = |memory| Sizes { instructions: 1, verified: 1, memory };
        assert!(sizes(vec![row(121.0), row(160.0)]).met());
        let missed = sizes(vec![row(121.0), row(161.0)]);
        assert!(!missed.met() && missed.render().contains("missed"));
    }

    #[test]
    fn new_flows_take_two_packets() {
        let shown = render_new(&[row(Case::First, 300.0), row(Case::Second, 200.0)]);
        assert!(shown.starts_with("dsr l2: 3333333 new flows") && shown.contains(" 2000000 with"), "{shown}");
        assert_eq!(render_new(&[row(Case::First, 300.0)]), "");
    }

    fn row(case: Case, ns: f64) -> Row {
        Row {
            subject: Subject::L2,
            case,
            ns,
            minimal_ns: 30.0,
            ratio: ns / 30.0,
            taken: Taken { instructions: 300, calls: 1, functions: 0 },
            met: false,
        }
    }
}

//! The examples show what they say they show.

use common::config::Algorithm;
use common::time::Duration;

use super::{Distribution, Report, Workload, WorkloadError, run, svg, table};

const HEAVY_TARGET: &str = include_str!("../../../../configs/simulate/heavy-target.toml");
const SHORT_AND_LONG: &str = include_str!("../../../../configs/simulate/short-and-long.toml");
const CONSISTENT_OR_MODULAR: &str = include_str!("../../../../configs/simulate/consistent-or-modular.toml");
const FULL: &str = include_str!("../../../../configs/simulate/full.toml");
const README: &str = include_str!("../../../../README.md");
const FAILING_TARGET: &str = include_str!("../../../../configs/simulate/failing-target.toml");

fn play(text: &str) -> Report {
    run(&Workload::parse(text).unwrap_or_else(|error| panic!("{error}")))
}

/// What must hold for any report.
fn check(report: &Report) {
    for outcome in &report.outcomes {
        let accepted: u64 = outcome.targets.iter().map(|target| target.accepted).sum();
        let failed = outcome.lost.total() - outcome.lost.cut;
        assert_eq!(
            accepted + failed,
            u64::from(report.workload.arrivals.connections),
            "every connection is counted"
        );
        assert_eq!(outcome.lost.total(), u64::try_from(outcome.lost_at.len()).unwrap());
        assert_eq!(outcome.waits.count + outcome.lost.cut, accepted + cut_while_served(outcome));
        assert!((outcome.targets.iter().map(|target| target.share).sum::<f64>() - 1.0).abs() < 1e-9);
        assert!(outcome.targets.iter().all(|target| (0.0..=1.0).contains(&target.busy)));
    }
}

/// Connections that were cut while they were worked on: they are among those whose waiting time is known.
fn cut_while_served(outcome: &super::Outcome) -> u64 {
    (outcome.waits.count + outcome.lost.cut)
        .saturating_sub(outcome.targets.iter().map(|target| target.accepted).sum())
}

/// The drawing is well-formed: every element is closed, and nothing outside is referred to.
fn check_drawing(report: &Report) {
    let drawing = svg(report);
    let mut open = Vec::new();
    for tag in drawing.split('<').skip(1) {
        let (tag, _) = tag.split_once('>').expect("each tag ends");
        if let Some(name) = tag.strip_prefix('/') {
            assert_eq!(open.pop(), Some(name));
        } else if !tag.ends_with('/') {
            open.push(tag.split(' ').next().unwrap());
        }
    }
    assert!(open.is_empty(), "{open:?}");
    assert_eq!(drawing.matches("http").count(), 1, "the name space and nothing else");
    assert!(!drawing.contains("NaN") && !drawing.contains("inf "), "all positions are numbers");
    for outcome in &report.outcomes {
        assert!(drawing.contains(outcome.algorithm.name()));
    }
}

#[test]
fn every_example_can_be_played_and_drawn() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../configs/simulate");
    let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(files.len() >= 5);
    for file in files {
        let report = play(&std::fs::read_to_string(&file).unwrap());
        check(&report);
        check_drawing(&report);
        let text = table(&report);
        assert!(text.starts_with(&report.workload.title), "{text}");
        assert!(text.lines().all(|line| line.chars().count() < 180), "{text}");
    }
}

#[test]
fn the_same_seed_gives_the_same_report() {
    let first = play(HEAVY_TARGET);
    assert_eq!(play(HEAVY_TARGET), first);
    let other = play(&HEAVY_TARGET.replace("seed = 1", "seed = 2"));
    assert_ne!(other.outcomes, first.outcomes);
}

#[test]
fn five_targets_with_a_heavy_one() {
    let report = play(HEAVY_TARGET);
    let of = |algorithm| report.outcome(algorithm).unwrap();
    // Turns: the numbers are exact, the loads are not.
    let turns = of(Algorithm::RoundRobin);
    assert!(report.share_error(turns) < 0.002, "{}", report.share_error(turns));
    assert!((turns.targets[0].share - 3.0 / 7.0).abs() < 0.002);
    // By load: the heavy one has three times as much and all are equally loaded, less so by chance.
    for algorithm in [Algorithm::LeastConnections, Algorithm::LeastOutstandingRequests] {
        let least = of(algorithm);
        let loads = least.targets.iter().map(|target| target.load_max);
        let spread = loads.clone().fold(0.0, f64::max) - loads.fold(f64::MAX, f64::min);
        assert!(
            spread <= 1.0 / 18.0 + 1e-9,
            "{algorithm:?}: at most a connection between them, not {spread}"
        );
        assert!(least.load_max() < turns.load_max());
        assert!(report.share_error(least) < 0.03);
    }
    let least = of(Algorithm::LeastConnections).load_max();
    assert!(of(Algorithm::PowerOfTwoChoices).load_max() < of(Algorithm::Random).load_max());
    assert!(least <= of(Algorithm::PowerOfTwoChoices).load_max());
    // Clients that stay where they are, and those that never do.
    assert_eq!(of(Algorithm::ConsistentHash).switched, 0);
    assert_eq!(of(Algorithm::SourceIpHash).switched, 0);
    assert!(of(Algorithm::FlowHash).switched * 2 > of(Algorithm::FlowHash).again);
}

#[test]
fn a_mix_of_short_and_long() {
    let report = play(SHORT_AND_LONG);
    let waited = |algorithm| report.outcome(algorithm).unwrap().waits;
    let (least, turns) = (waited(Algorithm::LeastConnections), waited(Algorithm::RoundRobin));
    assert!(least.mean * 4 < turns.mean, "{:?} {:?}", least.mean, turns.mean);
    assert!(waited(Algorithm::PowerOfTwoChoices).mean < turns.mean);
    assert!(turns.mean < waited(Algorithm::Random).mean);
    assert!(waited(Algorithm::Random).max > Duration::from_secs(1));
}

#[test]
fn consistent_or_modular() {
    let report = play(CONSISTENT_OR_MODULAR);
    let moves = |algorithm| &report.outcome(algorithm).unwrap().moves;
    for (modular, consistent) in moves(Algorithm::SourceIpHash).iter().zip(moves(Algorithm::ConsistentHash)) {
        assert!(modular.clients > 4000);
        let share = |part: u32, whole: u32| f64::from(part) / f64::from(whole);
        // Of ten targets: nine in ten move, or one in ten.
        assert!((share(modular.moved, modular.clients) - 0.9).abs() < 0.03);
        assert!((share(consistent.moved, consistent.clients) - 0.1).abs() < 0.03);
        assert_eq!(consistent.needless, 0);
        assert!(share(modular.needless, modular.clients) > 0.7);
    }
    assert_eq!(moves(Algorithm::ConsistentHash).len(), 2, "it fails and comes back");
}

#[test]
fn a_failing_target() {
    let report = play(FAILING_TARGET);
    assert_eq!(report.outcomes.len(), Algorithm::ALL.len());
    for outcome in &report.outcomes {
        assert_eq!(
            outcome.lost.total(),
            outcome.lost.cut,
            "{:?}: retries save all new ones",
            outcome.algorithm
        );
        assert!((1..=40).contains(&outcome.lost.cut), "{:?}: {:?}", outcome.algorithm, outcome.lost);
        // Until the checks have noticed, at most 2 s of 50 connections a second. A dead target has the fewest connections.
        assert!((1..=110).contains(&outcome.retried), "{:?}: {}", outcome.algorithm, outcome.retried);
        let down = &outcome.targets[0].load[100..136];
        assert!(down.iter().all(|&load| load == 0.0), "nothing is there while it is down");
        assert!(outcome.targets[0].load[200..].iter().any(|&load| load > 0.1), "and something is after it");
    }
    // Without a second try, what meets the dead target is lost.
    let once = play(&FAILING_TARGET.replace("attempts = 2", "attempts = 1"));
    for (once, twice) in once.outcomes.iter().zip(&report.outcomes) {
        assert_eq!(once.retried, 0);
        assert!(once.lost.refused > 0, "{:?}", once.algorithm);
        assert!(twice.retried >= once.lost.refused / 2);
    }
    // Without the checks, it is never found out.
    let (before, after) = FAILING_TARGET.split_once("[health]").unwrap();
    let unchecked = play(&format!("{before}{}", &after[after.find("[[target]]").unwrap()..]));
    for (unchecked, checked) in unchecked.outcomes.iter().zip(&report.outcomes) {
        assert!(unchecked.retried > 5 * checked.retried, "{:?}", unchecked.algorithm);
    }
}

#[test]
fn the_slow_start_is_slow() {
    let early = |text: &str, algorithm| {
        let report = play(text);
        // The first five seconds after the checks found it, of 120.
        let load = &report.outcome(algorithm).unwrap().targets[0].load[146..156];
        load.iter().sum::<f64>()
    };
    let at_once = FAILING_TARGET.replace("slow_start = \"20s\"", "");
    for algorithm in [Algorithm::RoundRobin, Algorithm::LeastConnections, Algorithm::ConsistentHash] {
        let (slow, fast) = (early(FAILING_TARGET, algorithm), early(&at_once, algorithm));
        assert!(slow < fast / 2.0, "{algorithm:?}: {slow} {fast}");
    }
}

/// Failed connects take out what checks have not noticed, and the backups serve when nobody else is left.
#[test]
fn ejection_and_backups() {
    let report = play(FULL);
    for outcome in &report.outcomes {
        let algorithm = outcome.algorithm;
        // With both targets dead and not out yet there is nobody to try, since a backup only stands by.
        assert!(outcome.lost.refused <= 15, "{algorithm:?}: {:?}", outcome.lost);
        assert_eq!(outcome.lost.total(), outcome.lost.cut + outcome.lost.refused);
        // The first three connects to each dead target of each spell, and a few after an ejection has ended.
        assert!((6..=60).contains(&outcome.retried), "{algorithm:?}: {}", outcome.retried);
        // A bucket is 100 s / 240. The first target goes at 20 s and the second at 30 s.
        let busy = |target: usize, seconds: std::ops::Range<usize>| {
            let buckets = seconds.start * 240 / 100..seconds.end * 240 / 100;
            outcome.targets[target].load[buckets].iter().sum::<f64>() > 0.0
        };
        assert!(!busy(2, 0..29) && !busy(3, 0..29), "{algorithm:?}: backups stand by");
        assert!(busy(2, 35..60) && busy(3, 35..60), "{algorithm:?}: backups serve");
        assert!(
            busy(0, 75..79) && busy(1, 75..100) && !busy(0, 81..100),
            "{algorithm:?}: those who are back serve"
        );
    }
    // Without ejection, retries go on until the checks have failed three times.
    let (before, after) = FULL.split_once("[eject]").unwrap();
    let checked_only = play(&format!("{before}{}", &after[after.find("[[target]]").unwrap()..]));
    for (without, with) in checked_only.outcomes.iter().zip(&report.outcomes) {
        assert!(
            without.retried > 4 * with.retried,
            "{:?}: {} {}",
            with.algorithm,
            without.retried,
            with.retried
        );
    }
}

#[test]
fn the_readme_s_numbers() {
    let (heavy, mixed, moved) = (play(HEAVY_TARGET), play(SHORT_AND_LONG), play(CONSISTENT_OR_MODULAR));
    let load = |algorithm| format!("{:.2}", heavy.outcome(algorithm).unwrap().load_max());
    let wait = |algorithm| table::seconds(mixed.outcome(algorithm).unwrap().waits.mean);
    let moves = |algorithm| {
        let moves = &moved.outcome(algorithm).unwrap().moves[0];
        (f64::from(moves.moved) * 100.0 / f64::from(moves.clients)).round()
    };
    let (turns, least) = (Algorithm::RoundRobin, Algorithm::LeastConnections);
    let (modular, consistent) = (Algorithm::SourceIpHash, Algorithm::ConsistentHash);
    for sentence in [
        format!("most load {} with `round_robin`, {} with `least_connections`", load(turns), load(least)),
        format!("{} of waiting with `round_robin`, {} with `least_connections`", wait(turns), wait(least)),
        format!(
            "{} % of the clients move with `source_ip_hash`, {} % with `consistent_hash`",
            moves(modular),
            moves(consistent)
        ),
    ] {
        assert!(README.contains(&sentence), "the README does not say: {sentence}");
    }
}

#[test]
fn with_nobody_left_everyone_is_tried() {
    let text = "title = \"all down\"\nclients = 10\nattempts = 1\nalgorithms = [\"round_robin\"]\n\
        arrivals = { connections = 1000, per_second = 10, spacing = \"constant\" }\nwork = { constant = \"10ms\" }\n\
        health = { interval = \"1s\", healthy_threshold = 1, unhealthy_threshold = 1 }\n\
        [[target]]\nid = \"a\"\ncount = 2\nserves = 1\nwaiting = 0\ndown = [{ from = \"20s\", to = \"50s\" }]\n";
    let report = play(text);
    check(&report);
    let lost = report.outcomes[0].lost;
    // 30 s with 10 each second, and what came in the moment between.
    assert!((295..=310).contains(&lost.refused), "{lost:?}");
    assert_eq!(lost.nobody, 0);
    // Weight 0 is nobody's.
    let report = play(&text.replace("serves = 1", "serves = 1\nweight = 0"));
    assert_eq!(report.outcomes[0].lost.nobody, 1000);
}

#[test]
fn a_full_queue_refuses() {
    let text = "title = \"full\"\nclients = 1\nattempts = 2\nalgorithms = [\"round_robin\"]\n\
        arrivals = { connections = 100, per_second = 10, spacing = \"constant\" }\nwork = { constant = \"10s\" }\n\
        [[target]]\nid = \"a\"\nserves = 1\nwaiting = 2\n";
    let report = play(text);
    check(&report);
    let outcome = &report.outcomes[0];
    // One served and two waiting at the end of 10 s, and one more place that came free.
    assert_eq!((outcome.lost.overflowed, outcome.targets[0].open_max), (97, 3));
    assert!(outcome.waits.max >= Duration::from_secs(9));
}

#[test]
fn durations_have_their_mean() {
    let second = Duration::from_secs(1);
    let mut rng = common::rng::Rng::new(1);
    for distribution in [
        Distribution::Constant(second),
        Distribution::Uniform(second, 20 * second),
        Distribution::Exponential(5 * second),
        Distribution::Mixture(vec![
            (4, Distribution::Constant(second)),
            (1, Distribution::Exponential(10 * second)),
        ]),
    ] {
        let sum: Duration = (0..20_000).map(|_| distribution.draw(&mut rng)).sum();
        let (mean, expected) = ((sum / 20_000).as_secs_f64(), distribution.mean().as_secs_f64());
        assert!((mean / expected - 1.0).abs() < 0.05, "{distribution:?}: {mean} {expected}");
    }
}

#[test]
fn mistakes_are_named() {
    let good = "title = \"x\"\nclients = 1\narrivals = { connections = 1, per_second = 1 }\n\
        work = { constant = \"1s\" }\n[[target]]\nid = \"a\"\nserves = 1\n";
    assert!(Workload::parse(good).is_ok());
    let message = |from: &str, to: &str| {
        assert!(good.contains(from));
        Workload::parse(&good.replace(from, to)).expect_err(to).to_string()
    };
    for (from, to, expected) in [
        ("clients = 1", "clients = 0", "`clients` is 0, but must be 1 to 1000000"),
        ("clients = 1", "client = 1", "unknown field `client`"),
        ("per_second = 1", "per_second = nan", "`arrivals.per_second` is -1, but must be"),
        ("per_second = 1", "per_second = 0.001, spacing = \"never\"", "unknown variant `never`"),
        ("constant = \"1s\"", "constant = \"1\"", "is no duration like \"1s\""),
        ("constant = \"1s\"", "constant = \"90days\"", "30 days at most"),
        ("constant = \"1s\"", "uniform = [\"2s\", \"1s\"]", "the shorter time first"),
        ("constant = \"1s\"", "mixture = []", "up to 100 parts"),
        ("serves = 1", "serves = 1\ncount = 501", "500 targets in all"),
        ("serves = 1", "serves = 1\nweight = 257", "`target a: weight` is 257"),
        ("serves = 1", "serves = 1\ndown = [{ from = \"2s\", to = \"1s\" }]", "each ending after it began"),
        ("serves = 1", "serves = 1\n[[target]]\nid = \"a\"\nserves = 2", "two targets have the id `a`"),
        ("per_second = 1 }", "per_second = 0.001 }\nhealth = { interval = \"1ms\" }", "10ms or more"),
        (
            "connections = 1, per_second = 1 }",
            "connections = 1000000, per_second = 1 }\nhealth = { interval = \"10ms\" }",
            "at most 20000000 checks",
        ),
        ("clients = 1", "clients = 1\nalgorithms = []", "one algorithm or more"),
        ("clients = 1", "clients = 1\nalgorithms = [\"best\"]", "unknown variant `best`"),
    ] {
        let message = message(from, to);
        assert!(message.contains(expected), "{to}: {message}");
    }
    let crowd = good
        .replace("clients = 1", "clients = 1000000")
        .replace("serves = 1", "serves = 1\ncount = 100\ndown = [{ from = \"1s\", to = \"2s\" }]");
    let message = Workload::parse(&crowd).expect_err("too many").to_string();
    assert!(message.contains("1000000, with up to 200 failures"), "{message}");
    assert!(matches!(Workload::parse("title ="), Err(WorkloadError::Syntax(_))));
}

/// The rows of the part of a table under this title, by their first cell; those of the summary come first.
fn rows<'t>(text: &'t str, title: &str) -> Vec<Vec<&'t str>> {
    let mut lines = text.lines().skip_while(|line| !line.starts_with(title));
    if title != "algorithm" {
        lines.next();
    }
    let cells = |line: &'t str| line.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).collect();
    lines.take_while(|line| !line.is_empty()).map(cells).collect()
}

/// Each target has a bar as long as its share, beside which that stands.
fn check_bars(drawn: &str, shares: &[&str], outcome: &super::Outcome) {
    let width = |bar: &str| -> f64 {
        bar.split_once("width=\"").unwrap().1.split('"').next().unwrap().parse().unwrap()
    };
    let bars: Vec<f64> = drawn.split("<rect ").filter(|rect| rect.contains("fill=\"#")).map(width).collect();
    assert_eq!(bars.len(), outcome.targets.len());
    let (longest, most) = (
        bars.iter().copied().fold(0.0, f64::max),
        outcome.targets.iter().map(|target| target.share).fold(0.0, f64::max),
    );
    for (bar, target) in bars.iter().zip(&outcome.targets) {
        assert!((bar / longest - target.share / most).abs() < 0.01, "{bar} of {longest}");
    }
    for share in shares {
        assert!(drawn.contains(&format!(">{share}</text>")), "{share}");
    }
}

/// What is printed and drawn is what came out, column by column.
#[test]
fn the_table_and_the_drawing_say_what_came_out() {
    for example in [HEAVY_TARGET, FAILING_TARGET, FULL, CONSISTENT_OR_MODULAR] {
        let report = play(example);
        let (text, drawing) = (table(&report), svg(&report));
        let number = |cell: &str| -> f64 { cell.trim_end_matches(" %").parse().unwrap() };
        let part = |part: u64, whole: u64| if whole == 0 { 0.0 } else { part as f64 / whole as f64 * 100.0 };
        let near = |cell: &str, value: f64, step: f64| {
            let cell = if cell == "-" { 0.0 } else { number(cell) };
            assert!((cell - value).abs() <= step * 0.501, "{cell} for {value} in {text}");
        };
        let summary = rows(&text, "algorithm");
        assert_eq!(
            summary[0].join(" "),
            "algorithm off weight most load waited mean wait p99 longest lost retried switched"
        );
        let [shares, loads, busy] = ["share of connections", "most load\n", "busy on average"].map(|title| {
            // The summary has a column of that name, too.
            let from = text.find(&format!("\n{title}")).unwrap() + 1;
            rows(&text[from..], title.trim_end())
        });
        for (place, outcome) in report.outcomes.iter().enumerate() {
            let row = &summary[place + 1];
            assert_eq!(row[0], outcome.algorithm.name());
            let off = outcome
                .targets
                .iter()
                .enumerate()
                .map(|(index, target)| (target.share - report.share_by_weight(index)).abs() * 100.0);
            near(row[1], off.fold(0.0, f64::max), 0.1);
            near(row[2], outcome.targets.iter().map(|it| it.load_max).fold(0.0, f64::max), 0.01);
            near(row[3], part(outcome.waits.waited, outcome.waits.count), 0.1);
            for (cell, time) in
                row[4..7].iter().zip([outcome.waits.mean, outcome.waits.p99, outcome.waits.max])
            {
                let (value, unit) = cell.split_once(' ').unwrap_or((cell, "s"));
                let scale = if unit == "ms" { 1e3 } else { 1.0 };
                let step = if unit == "ms" { 1.0 } else { 0.1 };
                near(value, time.as_secs_f64() * scale, step);
            }
            let lost = outcome.lost;
            let told: u64 = row[7]
                .split(|letter: char| !letter.is_ascii_digit())
                .filter_map(|it| it.parse::<u64>().ok())
                .sum();
            assert_eq!(told, lost.cut + lost.refused + lost.overflowed + lost.nobody, "{}", row[7]);
            assert_eq!(row[8], outcome.retried.to_string());
            near(row[9], part(outcome.switched, outcome.again), 0.1);
            for (index, target) in outcome.targets.iter().take(12).enumerate() {
                near(shares[place + 2][index + 1], target.share * 100.0, 0.1);
                near(loads[place + 1][index + 1], target.load_max, 0.01);
                near(busy[place + 1][index + 1], target.busy * 100.0, 1.0);
            }
            // The drawing's words are the table's.
            let drawn = drawing.split("<g transform").nth(place + 1).unwrap();
            for fact in [
                format!("most load {}", row[2]),
                format!("{} waited, mean {}, longest {}", row[3], row[4], row[6]),
                format!("{told} lost"),
            ] {
                assert!(drawn.contains(&fact), "{fact}");
            }
            check_bars(drawn, &shares[place + 2][1..], outcome);
        }
        let drawn = |class: &str| drawing.matches(&format!("class=\"{class}\"")).count();
        let targets = report.workload.targets.len() * report.outcomes.len();
        assert_eq!(drawn("curve"), targets);
        assert_eq!(drawn("mark"), targets, "a mark at what each weight stands for");
        assert_eq!(drawn("event"), report.outcomes.iter().map(|it| it.moves.len()).sum::<usize>());
        assert_eq!(drawn("lost"), report.outcomes.iter().filter(|it| it.lost.total() > 0).count());
        // In the order of time, for a target may fail twice.
        let mut rest = &text[..];
        for (number, changed) in report.outcomes[0].moves.iter().enumerate() {
            let id = &report.workload.targets[changed.target].id;
            let title = format!("{id} {} at", if changed.up { "comes back" } else { "fails" });
            rest = &rest[rest.find(&format!("\n{title}")).unwrap() + 1..];
            let table = rows(rest, &title);
            for (outcome, row) in report.outcomes.iter().zip(&table[1..]) {
                let moves = &outcome.moves[number];
                let clients = u64::from(moves.clients);
                assert_eq!([row[0], row[1]], [outcome.algorithm.name(), &clients.to_string()]);
                near(row[2], part(u64::from(moves.moved), clients), 0.1);
                near(row[3], part(u64::from(moves.needless), clients), 0.1);
                let when = if moves.up { "return" } else { "failure" };
                let fact = format!("{when}: {} of clients changed target, {} without need", row[2], row[3]);
                // There is room for two of them.
                assert!(number >= 2 || drawing.contains(&fact), "{fact}");
            }
        }
    }
}

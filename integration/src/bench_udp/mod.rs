//! `lbd` as a UDP proxy beside nginx, in one run: each on one processor, clients and target on another.
//!
//! As with TCP: both run at the same time and the one that is not measured is stopped, they take turns, and medians count.
//! HAProxy does not forward datagrams.

mod load;
mod proxy;

use std::fmt;
use std::net::UdpSocket;

use serde::{Deserialize, Serialize};

pub use proxy::{Proxy, versions};

use crate::bench_tcp::load::{need_two_processors, stay_on};
use crate::bench_tcp::network::Network;
use crate::bench_tcp::running::Running;
use crate::lab::Result;
use crate::lab::error::Context;
use crate::report::table::{Align, Table};
use load::{Echo, Stretch};

/// The processors of the proxies, and of clients and target.
const PROCESSORS: [usize; 2] = [0, 1];

/// What clients do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Load {
    /// One client, one question at a time.
    Lone,
    /// Many clients, each with one question at a time.
    Questions,
    /// Many clients, each with several large datagrams under way.
    Stream,
    /// Each question from a new port: a session of its own.
    Sessions,
}

impl Load {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Lone, Self::Questions, Self::Stream, Self::Sessions];

    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Lone => "lone",
            Self::Questions => "questions",
            Self::Stream => "stream",
            Self::Sessions => "sessions",
        }
    }

    /// Clients, datagrams under way for each, and bytes of a datagram.
    const fn shape(self) -> (usize, u32, usize) {
        match self {
            Self::Lone => (1, 1, 64),
            Self::Questions | Self::Sessions => (64, 1, 64),
            Self::Stream => (8, 8, 1400),
        }
    }
}

impl fmt::Display for Load {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (clients, window, size) = self.shape();
        let clients = if clients == 1 { "one client".to_owned() } else { format!("{clients} clients") };
        write!(f, "{clients}, {window} of {size} bytes under way each")?;
        f.write_str(if *self == Self::Sessions { ", all from new ports" } else { "" })
    }
}

/// One line of the comparison: processor time of a datagram and its answer, in microseconds.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Row {
    /// What clients did.
    pub load: Load,
    /// Ours and nginx's: the medians.
    pub processor_us: [f64; 2],
    /// Answers a second.
    pub per_second: [f64; 2],
    /// The largest part of the datagrams that was lost.
    pub lost: [f64; 2],
}

impl Row {
    /// Ours as a multiple of the other's processor time.
    #[must_use]
    pub fn ratio(&self) -> f64 {
        self.processor_us[0] / self.processor_us[1]
    }

    fn of(load: Load, stretches: &[Vec<Stretch>; 2]) -> Self {
        let medians = |value: fn(&Stretch) -> f64| {
            stretches.each_ref().map(|all| median(all.iter().map(value).collect()))
        };
        let most = |all: &Vec<Stretch>| all.iter().map(Stretch::lost).fold(0.0, f64::max);
        Self {
            load,
            processor_us: medians(Stretch::processor_us),
            per_second: medians(Stretch::per_second),
            lost: stretches.each_ref().map(most),
        }
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Measures everything `runs` times, and tells `progress` what it has. Needs root and two processors.
///
/// # Errors
/// [`crate::lab::LabError`] when a host or a proxy cannot be set up, or a socket cannot be opened.
pub fn run(runs: u32, mut progress: impl FnMut(&str)) -> Result<Vec<Row>> {
    need_two_processors()?;
    let network = Network::build()?;
    stay_on(PROCESSORS[1]).doing(|| "choosing a processor for the load".to_owned())?;
    let socket = network.target.inside(|| UdpSocket::bind(Network::bind_address()))?;
    let _echo = Echo::start(socket.doing(|| "listening as the target".to_owned())?)
        .doing(|| "starting the target".to_owned())?;
    let running = Proxy::ALL.map(|proxy| proxy.start(&network, PROCESSORS[0]));
    let running = running.into_iter().collect::<Result<Vec<Running<Proxy>>>>()?;
    for proxy in &running {
        proxy.pause()?;
    }
    let mut rows = Vec::new();
    for load in Load::ALL {
        let mut stretches = [Vec::new(), Vec::new()];
        for number in 1..=runs {
            for (subject, stretches) in running.iter().zip(&mut stretches) {
                subject.resume()?;
                let pids = subject.pids();
                let measured = network.client.inside(|| load::run(load, subject.proxy.address(), &pids))?;
                let stretch = measured.doing(|| format!("asking through {}", subject.proxy.name()))?;
                subject.pause()?;
                progress(&format!("{} {number} {}: {stretch}", load.name(), subject.proxy.name()));
                stretches.push(stretch);
            }
        }
        rows.push(Row::of(load, &stretches));
    }
    for proxy in running {
        proxy.resume()?;
        proxy.stop()?;
    }
    Ok(rows)
}

/// The table.
#[must_use]
pub fn render(rows: &[Row]) -> String {
    let right = ["Tandem", "nginx", "ratio", "per second", "nginx's", "lost", "nginx's"];
    let mut columns = vec![("CPU per datagram and answer, µs", Align::Left)];
    columns.extend(right.map(|name| (name, Align::Right)));
    let mut table = Table::new(&columns);
    for row in rows {
        let mut cells = vec![row.load.to_string()];
        cells.extend(row.processor_us.map(|us| format!("{us:.2}")));
        cells.push(format!("{:.2}", row.ratio()));
        cells.extend(row.per_second.map(|rate| format!("{rate:.0}")));
        cells.extend(row.lost.map(|part| format!("{:.2} %", part * 100.0)));
        table.row(cells);
    }
    table.render()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_row_has_the_medians_and_the_worst_loss() {
        let stretch = |us: u64, sent| Stretch {
            sent,
            answered: 1000,
            wall: Duration::from_secs(1),
            processor: Duration::from_micros(us * 1000),
        };
        let ours = vec![stretch(1, 1000), stretch(9, 1250), stretch(2, 1000)];
        let row = Row::of(Load::Lone, &[ours, vec![stretch(4, 1000)]]);
        assert!((row.ratio() - 0.5).abs() < 1e-9, "{row:?}");
        assert!((row.lost[0] - 0.2).abs() < 1e-9 && row.lost[1] == 0.0, "{row:?}");
        assert!(render(&[row]).contains("0.50"));
    }
}

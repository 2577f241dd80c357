//! `lbd status --flows`: the flows that the kernel forwards.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::path::Path;

use anyhow::{Context, bail};
use clap::Args;
use hyper::{Method, StatusCode};

use crate::l4::kernel::Listing;
use crate::status::{ask, escaped, write_rows};

/// Which flows are asked for.
#[derive(Clone, Debug, Args)]
pub(crate) struct FlowsWanted {
    /// List the flows that the kernel forwards instead (mode nat and dsr)
    #[arg(long)]
    pub(crate) flows: bool,
    /// Of this service only
    #[arg(long, value_name = "NAME", requires = "flows")]
    service: Option<String>,
    /// Of this target only
    #[arg(long, value_name = "GROUP/TARGET", requires = "flows")]
    target: Option<String>,
    /// From this address only
    #[arg(long, value_name = "ADDRESS", requires = "flows")]
    client: Option<IpAddr>,
    /// To this virtual IP only
    #[arg(long, value_name = "ADDRESS", requires = "flows")]
    vip: Option<IpAddr>,
    /// Of this protocol only
    #[arg(long, requires = "flows", value_parser = ["tcp", "udp"])]
    protocol: Option<String>,
    /// In this state only
    #[arg(long, requires = "flows", value_parser = ["opening", "established", "closing", "reset", "datagrams"])]
    state: Option<String>,
    /// So many at most [default: 1000]
    #[arg(long, value_name = "N", requires = "flows")]
    max: Option<usize>,
}

impl FlowsWanted {
    fn path(&self) -> String {
        let text = |address: Option<IpAddr>| address.map(|address| address.to_string());
        let asked = [
            ("service", self.service.clone()),
            ("target", self.target.clone()),
            ("client", text(self.client)),
            ("vip", text(self.vip)),
            ("protocol", self.protocol.clone()),
            ("state", self.state.clone()),
            ("max", self.max.map(|max| max.to_string())),
        ];
        let asked = asked.into_iter().filter_map(|(key, value)| Some(format!("{key}={}", escaped(&value?))));
        format!("/v1/flows?{}", asked.collect::<Vec<_>>().join("&"))
    }
}

/// What is printed.
pub(crate) fn show(run_dir: &Path, wanted: &FlowsWanted, json: bool) -> anyhow::Result<String> {
    let (code, body) = ask(run_dir, Method::GET, &wanted.path(), String::new())?;
    if code != StatusCode::OK {
        bail!("lbd answered {code}: {body}");
    }
    if json {
        return Ok(format!("{body}\n"));
    }
    Ok(table(&serde_json::from_str(&body).context("cannot read lbd's answer")?)?)
}

fn table(listing: &Listing) -> Result<String, std::fmt::Error> {
    let heads = ["PROTOCOL", "CLIENT", "VIRTUAL IP", "SERVICE", "TARGET", "PORT", "STATE", "SILENT", "LEFT"];
    let mut rows = vec![heads.map(str::to_owned).to_vec()];
    rows.extend(listing.flows.iter().map(|flow| {
        vec![
            flow.protocol.clone(),
            flow.client.to_string(),
            flow.vip.to_string(),
            flow.service.clone(),
            flow.target.clone(),
            flow.nat_port.map_or_else(|| "-".to_owned(), |port| port.to_string()),
            flow.state.name().to_owned(),
            format!("{} s", flow.idle_ms / 1000),
            format!("{} s", flow.remaining_ms / 1000),
        ]
    }));
    let mut out = String::new();
    write_rows(&mut out, &rows)?;
    if listing.more {
        writeln!(out, "\nand more: ask for fewer kinds, or for more with --max")?;
    }
    Ok(out)
}

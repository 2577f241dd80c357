//! Nodes whose configuration, or release, is not the same: both say so wherever operators look, and no role moves by it.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use crate::pair_support::{LIMIT, agreed, config, every, lbd, serving, settled, transitions};
use integration::lab::clock::wait_until;
use integration::lab::config::Instance;
use integration::lab::{Lab, Node, Result, binary};
use serde_json::Value;

/// What may differ.
#[derive(Clone, Copy)]
enum What {
    Configuration,
    Release,
}

impl What {
    /// Whether a node says that it is the other one's, too: in `lbd status`, `/health/details` and `/metrics`. None while one of them says
    /// nothing of it.
    fn is_same(self, node: &Node) -> Option<[bool; 3]> {
        let (sentence, field, metric) = match self {
            Self::Configuration => ("another configuration", "config_differs", "same_config"),
            Self::Release => ("another release", "version_differs", "same_version"),
        };
        let (_, table, _) = lbd(node, &["status"]);
        let connected = table.contains("connected to") && !table.contains("not connected to");
        let table = connected.then(|| !table.contains(&format!("the other node runs {sentence}, ")))?;
        let details: Value = node.get("lbd", "/health/details").ok()?.json().ok()?;
        let differs = details["replication"][field].as_bool()?;
        let metrics = node.get("lbd", "/metrics").ok()?.body;
        let metric = format!("tandem_lbd_replication_{metric} ");
        let value = metrics.lines().find_map(|line| line.strip_prefix(&metric))?;
        Some([table, !differs, value.starts_with('1')])
    }

    /// Waits until both nodes say that it is the same, or is not.
    fn wait(self, lab: &Lab, same: bool) -> Result<()> {
        for node in lab.nodes() {
            let what = format!("{} to say of both {same} in each place", node.name());
            wait_until(&what, LIMIT, || self.is_same(node) == Some([same; 3]))?;
        }
        Ok(())
    }
}

#[test]
fn another_configuration_shows_on_both_nodes_and_moves_no_role() -> Result<()> {
    let lab = serving("differs config", every("100ms"))?;
    What::Configuration.wait(&lab, true)?;
    let before = lab.nodes().map(transitions);
    let other = config(&lab, Instance { preempt_delay: "1s".to_owned(), ..every("100ms") });
    for (node, same) in [(lab.a(), false), (lab.b(), true)] {
        lab.write_config(&other)?;
        assert_eq!(node.send("lbd", "POST", "/v1/reload", "")?.status, 200);
        What::Configuration.wait(&lab, same)?;
        What::Release.wait(&lab, true)?;
        settled(&lab, lab.a())?;
    }
    assert_eq!(lab.nodes().map(transitions), before);
    lab.finish()
}

/// The program of `lbd` with another release written in the place of its own.
fn other_release(lab: &Lab) -> Result<PathBuf> {
    let ours = concat!("release of lbd ", env!("CARGO_PKG_VERSION"));
    let next = |digit: char| if digit == '9' { '8' } else { '9' };
    let other: String =
        ours.chars().map(|digit| if digit.is_ascii_digit() { next(digit) } else { digit }).collect();
    let mut program = fs::read(binary("lbd")?).expect("it can be read");
    let mut found = 0;
    let places = program.len() - ours.len();
    for place in 0..=places {
        let bytes = &mut program[place..place + ours.len()];
        if bytes == ours.as_bytes() {
            bytes.copy_from_slice(other.as_bytes());
            found += 1;
        }
    }
    assert!(found > 0, "{ours:?} is not in lbd");
    let path = lab.dir().join("lbd-other");
    fs::write(&path, program).expect("it can be written");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("it can be run");
    Ok(path)
}

#[test]
fn another_release_shows_on_both_nodes_and_moves_no_role() -> Result<()> {
    let lab = serving("differs release", every("100ms"))?;
    What::Release.wait(&lab, true)?;
    let before = lab.nodes().map(transitions);
    let b = lab.b();
    for (program, same) in [(other_release(&lab)?, false), (binary("lbd")?, true)] {
        b.stop("lbd")?;
        b.start_build("lbd", &program)?;
        What::Release.wait(&lab, same)?;
        What::Configuration.wait(&lab, true)?;
        agreed(&lab, lab.a())?;
        let version = |node: &Node| -> Value {
            let state: Option<Value> =
                node.get("lbd", "/v1/replication").ok().and_then(|answer| answer.json().ok());
            state.unwrap_or_default()["state"]["peer_version"].clone()
        };
        assert_eq!(version(lab.a()) == env!("CARGO_PKG_VERSION"), same, "{}", version(lab.a()));
        assert_eq!(version(b), env!("CARGO_PKG_VERSION"));
    }
    settled(&lab, lab.a())?;
    assert_eq!(lab.nodes().map(transitions), before);
    lab.finish()
}

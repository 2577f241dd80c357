//! The example for keepalived's side does what it says.

use std::fs;
use std::path::Path;

use integration::lab::{LabError, Result};

use crate::keepalived::start_with;
use crate::pair::{Pair, Preferred, Setup};

#[test]
fn the_example_pairs_with_vrrpd() -> Result<()> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs/keepalived-peer.conf");
    let doing = || format!("reading {}", path.display());
    let text = fs::read_to_string(&path).map_err(|source| LabError::Io { doing: doing(), source })?;
    // The lab's addresses for those of the documentation.
    let text = text.replace("192.0.2.10/", "10.77.0.50/").replace("2001:db8::10/", "fd77::50/");
    let pair = Pair::new(Setup::new("example", Preferred::Vrrpd, 100))?;
    let (a, b) = (pair.lab.a(), pair.lab.b());
    start_with(b, &text)?;
    pair.start_vrrpd()?;
    pair.wait_owner(a)?;
    a.stop("vrrpd")?;
    pair.wait_owner(b)?;
    pair.start_vrrpd()?;
    pair.wait_owner(a)?;
    assert_eq!(pair.drops()?, []);
    // Not held to the time with two owners: without a real-time priority keepalived gives way when a busy machine lets it.
    pair.end().map(drop)
}

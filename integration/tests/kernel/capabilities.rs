//! `lbd` with the three capabilities that it is said to take and no other, wherever its program is attached.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use integration::lab::clock::wait_until;
use integration::lab::{Lab, Result, binary};
use nix::sys::signal::Signal;

use crate::kernel_support::{LIMIT, answerer, service, status, vips};

/// CAP_NET_ADMIN (12), CAP_PERFMON (38) and CAP_BPF (39).
const THREE: &str = "CapEff:\t000000c000001000";

/// A program that runs `lbd` with nothing else permitted.
fn reduced(lab: &Lab) -> Result<PathBuf> {
    let set = "-all,+bpf,+perfmon,+net_admin";
    let text = format!(
        "#!/bin/sh\nexec setpriv --bounding-set={set} --inh-caps=-all {} \"$@\"\n",
        binary("lbd")?.display()
    );
    let path = lab.dir().join("lbd-reduced");
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    Ok(path)
}

fn text(lab: &Lab, attach: &str, keys: &str) -> String {
    let health = "health = { http = \"/health\", interval = \"100ms\", timeout = \"90ms\" }";
    format!("[kernel]\nattach = \"{attach}\"\n{}", service(lab, "web", keys, &["80"], 80, health))
}

#[test]
fn three_capabilities_suffice() -> Result<()> {
    const NAT: &str = "mode = \"nat\"";
    const DSR: &str = "mode = \"dsr\"\ndsr = \"l2\"";
    let lab = Lab::builder("kernel-capabilities").targets(2).build()?;
    lab.prepare_for_xdp()?;
    for vip in vips() {
        lab.a().add_address(vip)?;
    }
    let program = reduced(&lab)?;
    // Each life takes over from the one before it: what there is at first, then in another way.
    let lives = [
        ("auto", "tcx", NAT),
        ("auto", "tcx", NAT),
        ("clsact", "clsact", NAT),
        ("xdp", "xdp", NAT),
        ("auto", "tcx", DSR),
    ];
    for (attach, how, keys) in lives {
        if keys == DSR {
            for target in lab.targets() {
                vips().into_iter().try_for_each(|vip| target.accept_vip(vip))?;
            }
        }
        lab.write_config_text(&text(&lab, attach, keys))?;
        let pid = lab.a().start_build("lbd", &program)?;
        let said = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        assert!(said.contains(THREE), "{said}");
        wait_until(&format!("the program attached by {how}"), LIMIT, || {
            status(&lab).is_ok_and(|status| status["kernel"]["interfaces"][0]["attached"] == how)
        })?;
        for vip in vips() {
            wait_until(&format!("an answer through {vip}"), LIMIT, || answerer(&lab, vip).is_some())?;
        }
        lab.a().signal("lbd", Signal::SIGKILL)?;
        lab.a().wait_end("lbd", LIMIT)?;
    }
    lab.finish()
}

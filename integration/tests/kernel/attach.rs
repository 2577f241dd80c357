//! The forwarding program where it is not by default: in the driver (XDP), and as a filter of clsact, as on kernels before 6.6. And what
//! happens where others take it off, and to the settings that it needs.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use integration::lab::clock::{patient, wait_until};
use integration::lab::{Lab, Result, binary, http};
use nix::sys::signal::Signal;

use crate::kernel_support::{LIMIT, PATIENCE, answerer, reload_text, service, start, status, vips};

fn text(lab: &Lab, attach: &str, keys: &str) -> String {
    let [interval, timeout] = [100, 90].map(|ms| patient(Duration::from_millis(ms)).as_millis());
    let health =
        format!("health = {{ http = \"/health\", interval = \"{interval}ms\", timeout = \"{timeout}ms\" }}");
    format!("[kernel]\nattach = \"{attach}\"\n{}", service(lab, "web", keys, &["80"], 80, &health))
}

/// Waits until both targets have answered through both VIPs, and fetches what takes many packets.
fn served(lab: &Lab) -> Result<()> {
    for vip in vips() {
        let mut seen = BTreeSet::new();
        wait_until(&format!("answers of both targets through {vip}"), LIMIT, || {
            seen.extend(answerer(lab, vip));
            seen.len() == 2
        })?;
        // A connection that was begun in the way of before a reload has no other one to go on in.
        let large = || http::tcp(SocketAddr::new(vip, 80), "GET", "/large", "", PATIENCE);
        wait_until(&format!("a large answer through {vip}"), LIMIT, || {
            let answer = lab.client().namespace().inside(large);
            answer.is_ok_and(|it| it.is_ok_and(|it| (it.status, it.body.len()) == (200, 1 << 20)))
        })?;
    }
    Ok(())
}

/// Removes the pins of node `a` whose names begin so, and with them what is attached.
fn take_off(lab: &Lab, prefix: &str) -> Result<()> {
    let maps = status(lab)?["kernel"]["folder"].as_str().unwrap_or_default().to_owned();
    // The folder for what is attached has the name of that of the maps, without the layout. Only the node has it.
    let (folder, _) = maps.rsplit_once('-').expect("a folder with a layout");
    lab.a().run("sh", &["-c", &format!("rm {folder}/{prefix}*")]).map(drop)
}

/// Waits until so many programs that were taken off have been attached again, by what the status and the metrics say.
fn attached_again(lab: &Lab, times: u64) -> Result<()> {
    wait_until("the program in its place again", LIMIT, || {
        status(lab).is_ok_and(|status| status["kernel"]["attached_again"] == times)
    })?;
    assert_eq!(lab.a().counted("tandem_lbd_kernel_attached_again_total", "")?, times);
    Ok(())
}

/// Whether the program is on `eth0` of node `a` in this way.
fn attached(lab: &Lab, how: &str) -> bool {
    status(lab).is_ok_and(|status| status["kernel"]["interfaces"][0]["attached"] == how)
}

#[test]
fn in_the_driver() -> Result<()> {
    let lab = Lab::builder("kernel-xdp").targets(2).build()?;
    lab.prepare_for_xdp()?;
    start(&lab, &text(&lab, "xdp", "mode = \"nat\""))?;
    served(&lab)?;
    assert!(attached(&lab, "xdp"), "{}", status(&lab)?["kernel"]);
    take_off(&lab, "xdp_")?;
    attached_again(&lab, 1)?;
    served(&lab)?;
    for target in lab.targets() {
        vips().into_iter().try_for_each(|vip| target.accept_vip(vip))?;
    }
    reload_text(&lab, &text(&lab, "xdp", "mode = \"dsr\"\ndsr = \"l2\""))?;
    served(&lab)?;
    // And back to TC, without anything to be started again.
    reload_text(&lab, &text(&lab, "auto", "mode = \"dsr\"\ndsr = \"l2\""))?;
    wait_until("the program to be out of the driver", LIMIT, || !attached(&lab, "xdp"))?;
    served(&lab)?;
    lab.finish()
}

#[test]
fn as_a_filter_that_stays_when_lbd_does_not() -> Result<()> {
    let lab = Lab::builder("kernel-clsact").targets(2).build()?;
    start(&lab, &text(&lab, "clsact", "mode = \"nat\""))?;
    served(&lab)?;
    assert!(attached(&lab, "clsact"), "{}", status(&lab)?["kernel"]);
    let filters = || lab.a().run("tc", &["filter", "show", "dev", "eth0", "ingress"]);
    assert_eq!(filters()?.matches("handle 0x7a").count(), 1, "{}", filters()?);
    lab.a().signal("lbd", Signal::SIGKILL)?;
    lab.a().wait_end("lbd", LIMIT)?;
    assert!(vips().into_iter().all(|vip| answerer(&lab, vip).is_some()), "nobody is there but the kernel");
    lab.a().start_lbd()?;
    wait_until("the next lbd", LIMIT, || attached(&lab, "clsact"))?;
    assert_eq!(filters()?.matches("handle 0x7a").count(), 1, "replaced, not added: {}", filters()?);
    served(&lab)?;
    // To a link where the kernel has them, and no filter is left.
    reload_text(&lab, &text(&lab, "auto", "mode = \"nat\""))?;
    wait_until("another way", LIMIT, || filters().is_ok_and(|it| !it.contains("handle 0x7a")))?;
    served(&lab)?;
    lab.finish()
}

#[test]
fn what_others_take_off_is_attached_again() -> Result<()> {
    let lab = Lab::builder("kernel-again").targets(2).build()?;
    start(&lab, &text(&lab, "clsact", "mode = \"nat\""))?;
    served(&lab)?;
    let filters = || lab.a().run("tc", &["filter", "show", "dev", "eth0", "ingress"]);
    // All of clsact, then the filters alone.
    for (times, command) in [
        (1, &["qdisc", "del", "dev", "eth0", "clsact"][..]),
        (2, &["filter", "del", "dev", "eth0", "ingress"]),
    ] {
        lab.a().run("tc", command)?;
        attached_again(&lab, times)?;
        assert_eq!(filters()?.matches("handle 0x7a").count(), 1, "{}", filters()?);
        served(&lab)?;
    }
    let noticed = || lab.a().log("lbd").matches("no longer where it was attached").count();
    wait_until("it to be said twice", LIMIT, || noticed() == 2)?;
    // By a link, whose pin somebody removes.
    reload_text(&lab, &text(&lab, "auto", "mode = \"nat\""))?;
    wait_until("another way", LIMIT, || attached(&lab, "tcx"))?;
    take_off(&lab, "tcx_")?;
    attached_again(&lab, 3)?;
    served(&lab)?;
    let said =
        lab.a().run(&binary("lbd")?.display().to_string(), &["status", "--run-dir", &run_dir(&lab)])?;
    assert!(said.contains("taken off by somebody else and attached again 3 times"), "{said}");
    lab.finish()
}

fn run_dir(lab: &Lab) -> String {
    lab.a().run_dir().display().to_string()
}

#[test]
fn settings_are_put_back_with_the_last_service_of_the_kernel() -> Result<()> {
    let lab = Lab::builder("kernel-settings").targets(2).build()?;
    let keys = ["ipv4/conf/eth0/forwarding", "ipv6/conf/eth0/forwarding", "ipv6/conf/eth0/accept_ra"];
    lab.a().namespace().sysctl(&[(keys[0], "0"), (keys[1], "0"), (keys[2], "1")])?;
    let settings = || -> Result<Vec<String>> {
        let paths = keys.map(|key| format!("/proc/sys/net/{key}"));
        let text = lab.a().run("cat", &[&paths[0], &paths[1], &paths[2]])?;
        Ok(text.split_whitespace().map(str::to_owned).collect())
    };
    start(&lab, &text(&lab, "auto", "mode = \"nat\""))?;
    served(&lab)?;
    assert_eq!(settings()?, ["1", "1", "2"]);
    // The program forwards on without lbd, and needs them.
    lab.a().stop("lbd")?;
    assert_eq!(settings()?, ["1", "1", "2"]);
    assert!(vips().into_iter().all(|vip| answerer(&lab, vip).is_some()), "nobody is there but the kernel");
    lab.a().start_lbd()?;
    served(&lab)?;
    assert_eq!(settings()?, ["1", "1", "2"]);
    // dsr asks for no way to clients.
    reload_text(&lab, &text(&lab, "auto", "mode = \"dsr\"\ndsr = \"l2\""))?;
    wait_until("what was before", LIMIT, || settings().is_ok_and(|it| it == ["0", "0", "1"]))?;
    reload_text(&lab, &text(&lab, "auto", "mode = \"nat\""))?;
    served(&lab)?;
    assert_eq!(settings()?, ["1", "1", "2"]);
    lab.a().signal("lbd", Signal::SIGKILL)?;
    lab.a().wait_end("lbd", LIMIT)?;
    lab.a()
        .run(&binary("lbd")?.display().to_string(), &["doctor", "--remove", "--run-dir", &run_dir(&lab)])?;
    assert_eq!(settings()?, ["0", "0", "1"]);
    lab.finish()
}

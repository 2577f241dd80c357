//! Large transfers by iperf3 in either direction, through the program at TC and in the driver, in both families: they come through, no checksum
//! is wrong, and next to nothing is sent twice.

use std::net::IpAddr;

use integration::lab::clock::wait_until;
use integration::lab::{Lab, Result, Target};
use serde_json::Value;

use crate::kernel_support::{LIMIT, answerer, service, start, status, tcp_counters, vips};

/// iperf3's own.
const PORT: u16 = 5201;

/// Bytes of a transfer at TC, and in the driver: between veths that is slower by far.
const BYTES: [u64; 2] = [64 << 20, 4 << 20];

/// Of so many segments one may be sent again.
const SENT_FOR_ONE_AGAIN: u64 = 20;

/// Has the program attached in this way forward to one target, and has transfers go through it.
fn through(label: &str, attach: &str, keys: &str) -> Result<()> {
    let lab = Lab::builder(label).targets(1).build()?;
    let target = &lab.targets()[0];
    if attach == "xdp" {
        lab.prepare_for_xdp()?;
    }
    if keys.contains("dsr") {
        vips().into_iter().try_for_each(|vip| target.accept_vip(vip))?;
    }
    let text = format!("[kernel]\nattach = \"{attach}\"\n")
        + &service(&lab, "web", keys, &["80"], 80, "")
        + &service(&lab, "iperf", keys, &[&PORT.to_string()], PORT, "");
    start(&lab, &text)?;
    wait_until("the program to be attached", LIMIT, || {
        let attached = status(&lab).map(|status| status["kernel"]["interfaces"][0]["attached"].clone());
        attached.is_ok_and(|how| how.is_string() && (how == "xdp") == (attach == "xdp"))
    })?;
    for vip in vips() {
        wait_until(&format!("an answer through {vip}"), LIMIT, || answerer(&lab, vip).is_some())?;
    }
    for vip in vips() {
        for reverse in [false, true] {
            transfer(&lab, target, vip, reverse, BYTES[usize::from(attach == "xdp")])?;
        }
    }
    lab.finish()
}

/// One transfer, from the client or to it.
fn transfer(lab: &Lab, target: &Target, vip: IpAddr, reverse: bool, bytes: u64) -> Result<()> {
    let listening = || target.log("iperf3").matches("Server listening").count();
    let listened = listening();
    let mut server = target.command("iperf3");
    server.args(["--server", "--one-off", "--forceflush", "--port", &PORT.to_string()]);
    target.start("iperf3", server)?;
    wait_until("iperf3 to listen", LIMIT, || listening() > listened)?;

    let counters = || -> Result<[u64; 4]> {
        let names = ["OutSegs", "RetransSegs", "InErrs", "InCsumErrors"];
        let (client, target) = (tcp_counters(lab.client(), names)?, tcp_counters(target, names)?);
        Ok(std::array::from_fn(|place| client[place] + target[place]))
    };
    let forwarded = || lab.a().counted("tandem_lbd_kernel_service_bytes_total", "to_target");
    let (before, forwarded_before) = (counters()?, forwarded()?);
    let (address, port, length) = (vip.to_string(), PORT.to_string(), bytes.to_string());
    let mut arguments =
        vec!["60", "iperf3", "--json", "--client", &address, "--port", &port, "--bytes", &length];
    arguments.extend(reverse.then_some("--reverse"));
    let said = lab.client().run("timeout", &arguments)?;
    let told: Value = serde_json::from_str(&said).unwrap_or_default();
    let (after, forwarded_after) = (counters()?, forwarded()?);

    let what = format!("through {vip}, reverse: {reverse}");
    let received = &told["end"]["sum_received"];
    assert!(told["error"].is_null(), "{what}: {said}");
    // The receiver does not wait for what is still on its way at the end.
    assert!(received["bytes"].as_u64().is_some_and(|received| received > bytes / 2), "{what}: {received}");
    assert!(received["bits_per_second"].as_f64().is_some_and(|rate| rate > 0.0), "{what}: {received}");
    assert!(reverse || forwarded_after - forwarded_before > bytes / 2, "{what}: not through the program");
    let [sent, again, errors, checksums]: [u64; 4] =
        std::array::from_fn(|place| after[place] - before[place]);
    assert_eq!([errors, checksums], [0, 0], "{what}: segments with errors, with a wrong checksum");
    assert!(again * SENT_FOR_ONE_AGAIN <= sent, "{what}: {again} of {sent} segments were sent again");
    Ok(())
}

#[test]
fn nat_at_tc() -> Result<()> {
    through("kernel-iperf-nat", "auto", "mode = \"nat\"")
}

#[test]
fn dsr_at_tc() -> Result<()> {
    through("kernel-iperf-dsr", "auto", "mode = \"dsr\"\ndsr = \"l2\"")
}

#[test]
fn nat_in_the_driver() -> Result<()> {
    through("kernel-iperf-nat-xdp", "xdp", "mode = \"nat\"")
}

#[test]
fn dsr_in_the_driver() -> Result<()> {
    through("kernel-iperf-dsr-xdp", "xdp", "mode = \"dsr\"\ndsr = \"l2\"")
}

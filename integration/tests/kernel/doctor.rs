//! What `lbd doctor` says of the targets of kernel forwarding, before anything runs: how they are reached, what a tunnel leaves of a
//! packet, and what has to be done on them; and what it says of the host and its interfaces.

use integration::lab::addresses::mac_text;
use integration::lab::clock::wait_until;
use integration::lab::{Lab, Result, binary};

use crate::kernel_support::{LIMIT, service, status, vips};

/// Nobody is there.
const NOBODY: &str = "10.77.0.200";

/// A network behind the gateway.
const FAR: &str = "10.99.0.9";

/// Whether it is content, and what it says.
fn doctor(lab: &Lab) -> (bool, String) {
    doctor_by(lab, &[])
}

/// The same, run by another program.
fn doctor_by(lab: &Lab, by: &[&str]) -> (bool, String) {
    let (config, run_dir) = (lab.dir().join("pair.toml"), lab.a().run_dir().display().to_string());
    let lbd = binary("lbd").unwrap().display().to_string();
    let words = [by, &[lbd.as_str()]].concat();
    let mut command = lab.a().command(words[0]);
    command.args(&words[1..]).arg("doctor").arg("--config").arg(config).args([
        "--node",
        "a",
        "--run-dir",
        &run_dir,
    ]);
    let output = command.output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8(said).unwrap())
}

/// The line that begins so; panics if there is none.
fn line<'a>(said: &'a str, begin: &str) -> &'a str {
    said.lines().find(|line| line.contains(begin)).unwrap_or_else(|| panic!("no {begin:?} in\n{said}"))
}

#[test]
fn the_doctor_looks_at_tunnels_and_their_targets() -> Result<()> {
    let lab = Lab::builder("kernel-doctor").targets(1).target_servers(false).gateway().build()?;
    let (target, gateway) = (&lab.targets()[0], lab.gateway().expect("it was asked for"));
    let text: String = ["ipip", "gre", "gue"]
        .into_iter()
        .zip(8001..)
        .map(|(way, port)| {
            let keys = format!("mode = \"dsr\"\ndsr = \"{way}\"");
            service(&lab, way, &keys, &[&port.to_string(), &format!("{port}/udp")], port, "")
        })
        .collect();
    lab.write_config_text(&(text.clone() + "[kernel]\ngue_port = 6090\n"))?;
    let (good, said) = doctor(&lab);
    assert!(good, "{said}");
    // The target has not been spoken to before: it is found now.
    let next_hop = format!("through eth0 by {}, packets of up to", mac_text(target.mac()));
    for (way, overhead) in [("ipip", 0), ("gre", 4), ("gue", 8)] {
        for (family, outer) in [("4", 20), ("6", 40)] {
            let (headers, topic) = (overhead + outer, format!("target {way}{family}/t1: "));
            let inner = 1500 - headers;
            let way_there = line(&said, &format!("ok    {topic}"));
            assert!(
                way_there.ends_with(&format!("{next_hop} {inner} bytes (1500 less {headers} of {way})")),
                "{way_there}"
            );
            let small = line(&said, &format!("note  {topic}the tunnel leaves {inner} bytes"));
            assert!(
                small.contains(&format!("With an MTU of {} on the way there nothing is", 1500 + headers)),
                "{small}"
            );
        }
        let port = if way == "gue" { "GUE_PORT=6090 " } else { "" };
        let prepare = line(&said, &format!("note  targets of {way}4: "));
        assert!(prepare.contains(&format!("takes packets out of {way} with rp_filter=0")), "{prepare}");
        assert!(prepare.ends_with(&format!(": {port}scripts/dsr-target up {way} 10.77.0.50")), "{prepare}");
    }

    // A larger MTU leaves whole packets; a strict filter is told of.
    lab.a().ip("link set eth0 mtu 1548")?;
    lab.a().namespace().sysctl(&[("ipv4/conf/eth0/rp_filter", "1")])?;
    let (good, said) = doctor(&lab);
    assert!(good && !said.contains("the tunnel leaves"), "{said}");
    assert!(line(&said, "ok    target gue6/t1").contains("of up to 1500 bytes"), "{said}");
    line(&said, "note  eth0: rp_filter is strict");

    // Behind a router that way is smaller; and of who is not there it is said.
    lab.a().ip(&format!("route add {FAR}/32 via {} mtu 1400", gateway.v4()))?;
    let far = |address: &str| text.replacen(&target.v4().to_string(), address, 1);
    lab.write_config_text(&far(FAR))?;
    let (good, said) = doctor(&lab);
    let by = format!("by {} ({}), packets of up to 1380 bytes", gateway.v4(), mac_text(gateway.mac()));
    assert!(good && line(&said, "ok    target ipip4/t1").contains(&by), "{said}");
    lab.write_config_text(&far(NOBODY))?;
    let (good, said) = doctor(&lab);
    assert!(!good, "{said}");
    line(&said, &format!("BAD   target ipip4/t1: nobody answers for {NOBODY} on eth0"));

    // By MAC address only who is on the same network is reached.
    lab.write_config_text(&far(FAR).replace("\"ipip\"", "\"l2\""))?;
    let (good, said) = doctor(&lab);
    assert!(!good, "{said}");
    line(&said, "BAD   target ipip4/t1: `dsr = \"l2\"` takes targets on the same network");
    lab.finish()
}

#[test]
fn the_way_of_nat_goes_by_the_rules_for_its_virtual_ip() -> Result<()> {
    let lab = Lab::builder("kernel-rules").targets(1).target_servers(false).gateway().build()?;
    let (target, gateway) = (&lab.targets()[0], lab.gateway().expect("it was asked for"));
    for vip in vips() {
        lab.a().add_address(vip)?;
        let (family, address, by) = if vip.is_ipv4() {
            ("-4", format!("{}/32", target.v4()), gateway.v4().to_string())
        } else {
            ("-6", format!("{}/128", target.v6()), gateway.v6().to_string())
        };
        lab.a().ip(&format!("{family} rule add from {vip} lookup 100"))?;
        lab.a().ip(&format!("{family} route add {address} via {by} dev eth0 table 100"))?;
    }
    let text = service(&lab, "nat", "mode = \"nat\"", &["80"], 80, "")
        + &service(&lab, "kept", "mode = \"nat\"\npreserve_client_ip = true", &["81"], 81, "")
        + &service(&lab, "ipip", "mode = \"dsr\"\ndsr = \"ipip\"", &["82"], 82, "");
    lab.write_config_text(&text)?;
    let (good, said) = doctor(&lab);
    assert!(good, "{said}");
    let by_gateway = format!("({})", mac_text(gateway.mac()));
    let direct = format!("through eth0 by {},", mac_text(target.mac()));
    for family in ["4", "6"] {
        let way = line(&said, &format!("ok    target nat{family}/t1: "));
        assert!(way.contains(&by_gateway), "{way}");
        // What comes from a client has no rule.
        for other in ["kept", "ipip"] {
            let way = line(&said, &format!("ok    target {other}{family}/t1: "));
            assert!(way.contains(&direct), "{way}");
        }
    }
    // The virtual IPs are this host's own addresses here, whose ports are the host's, too.
    let ports = line(&said, "note  ports: nat sends from ");
    assert!(ports.contains("with ports 1024-33279, and the host gives 32768-33279 of these"), "{ports}");
    lab.a().namespace().sysctl(&[("ipv4/ip_local_reserved_ports", "1024-33279")])?;
    let (good, said) = doctor(&lab);
    assert!(good && !said.contains("note  ports"), "{said}");
    lab.finish()
}

#[test]
fn the_doctor_looks_at_the_host_and_its_interface() -> Result<()> {
    let lab = Lab::builder("kernel-host").targets(1).build()?;
    let text = service(&lab, "nat", "mode = \"nat\"", &["80"], 80, "");
    lab.write_config_text(&text)?;
    for vip in vips() {
        lab.a().add_address(vip)?;
    }
    let forwarding = |value: &str| {
        let settings = ["ipv4/conf/eth0/forwarding", "ipv6/conf/eth0/forwarding"];
        lab.a().namespace().sysctl(&settings.map(|setting| (setting, value)))
    };
    let filters = |all: &str, own: &str| {
        let settings = [("ipv4/conf/all/rp_filter", all), ("ipv4/conf/eth0/rp_filter", own)];
        lab.a().namespace().sysctl(&settings)
    };
    forwarding("0")?;
    filters("1", "0")?;
    lab.a().ip("link set eth0 mtu 1280")?;
    let (good, said) = doctor(&lab);
    assert!(good, "{said}");
    for begin in [
        "ok    kernel: Linux ",
        "ok    bpffs: /sys/fs/bpf",
        "ok    JIT: on",
        "note  lbd: does not run with this --run-dir",
        "ok    eth0: up, veth, MTU 1280",
        "note  eth0: net.ipv4.conf.eth0.forwarding is 0",
        "note  eth0: net.ipv6.conf.eth0.forwarding is 0",
        "note  eth0: rp_filter is strict",
        "note  this host: what it sends to a virtual IP of nat or dsr itself is forwarded to no target",
    ] {
        assert!(line(&said, begin).starts_with(begin), "{said}");
    }
    line(&said, ", packets of up to 1280 bytes");
    // In the driver, checksums that were left to it would be lost.
    assert!(!said.contains("checksum offload"), "{said}");
    lab.write_config_text(&format!("[kernel]\nattach = \"xdp\"\n{text}"))?;
    for (offload, told) in [("off", false), ("on", true)] {
        lab.a().run("ethtool", &["-K", "eth0", "tx", offload])?;
        let (_, said) = doctor(&lab);
        assert_eq!(said.contains("note  eth0: tx checksum offload is on"), told, "{said}");
    }
    lab.write_config_text(&text)?;
    // The larger number counts, and 2 is loose.
    filters("1", "2")?;
    let (_, said) = doctor(&lab);
    assert!(!said.contains("rp_filter"), "{said}");
    // What is not permitted is said by its name.
    let set = "-perfmon,-sys_admin";
    let (good, said) =
        doctor_by(&lab, &["setpriv", &format!("--bounding-set={set}"), &format!("--inh-caps={set}")]);
    assert!(!good, "{said}");
    assert!(line(&said, "BAD   kernel: ").contains("lacks CAP_PERFMON;"), "{said}");
    // Once it runs: where the program is, in which way and why; and it has set what it needs.
    lab.a().start_lbd()?;
    for (attach, how) in [("auto", "tcx"), ("clsact", "clsact")] {
        lab.write_config_text(&format!("[kernel]\nattach = \"{attach}\"\n{text}"))?;
        assert_eq!(lab.a().send("lbd", "POST", "/v1/reload", "")?.status, 200);
        let kernel = || status(&lab).map(|status| status["kernel"].clone()).unwrap_or_default();
        wait_until(&format!("the program attached by {how}, and no troubles"), LIMIT, || {
            let kernel = kernel();
            kernel["interfaces"][0]["attached"] == how
                && kernel["troubles"].as_array().is_some_and(Vec::is_empty)
        })?;
        let interface = kernel()["interfaces"][0].clone();
        let (good, said) = doctor(&lab);
        assert!(good, "{said}");
        let word = |key: &str| interface[key].as_str().unwrap_or_default();
        let (purpose, why) = (word("purpose"), word("why"));
        assert!(!purpose.is_empty() && !why.is_empty(), "{said}");
        line(&said, &format!("ok    eth0: {how} for {purpose}; {why}"));
        line(&said, "ok    lbd: forwards ");
        assert!(!said.contains("forwarding is 0"), "{said}");
    }
    lab.finish()
}

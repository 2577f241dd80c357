//! What `lbd doctor` says of the targets of kernel forwarding, before anything runs: how they are reached, what a tunnel leaves of a
//! packet, and what has to be done on them.

use integration::lab::addresses::mac_text;
use integration::lab::{Lab, Result, binary};

use crate::kernel_support::{service, vips};

/// Nobody is there.
const NOBODY: &str = "10.77.0.200";

/// A network behind the gateway.
const FAR: &str = "10.99.0.9";

/// Whether it is content, and what it says.
fn doctor(lab: &Lab) -> (bool, String) {
    let (config, run_dir) = (lab.dir().join("pair.toml"), lab.a().run_dir().display().to_string());
    let mut command = lab.a().command(&binary("lbd").unwrap().display().to_string());
    command.arg("doctor").arg("--config").arg(config).args(["--node", "a", "--run-dir", &run_dir]);
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

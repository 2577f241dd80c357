//! The forwarding program where it is not by default: in the driver (XDP), and as a filter of clsact, as on kernels before 6.6. And what
//! happens where others take it off, and to the settings that it needs.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use integration::lab::addresses::{LAN_PREFIX_V4, LAN_PREFIX_V6, mac_text};
use integration::lab::clock::{patient, wait_until};
use integration::lab::probe::{EchoProbe, EchoSettings};
use integration::lab::{Lab, Result, binary, http};
use nix::sys::signal::Signal;

use crate::kernel_support::{LIMIT, PATIENCE, address, answerer, reload_text, service, start, status, vips};

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

/// Whether this kernel has links at TC: since Linux 6.6.
fn has_links(lab: &Lab) -> Result<bool> {
    let release = lab.a().run("uname", &["-r"])?;
    let mut numbers = release.split(['.', '-']).map_while(|number| number.parse::<u32>().ok());
    Ok((numbers.next(), numbers.next()) >= (Some(6), Some(6)))
}

/// Other addresses of the client's, which are behind the gateway for node `a`.
const FAR: [&str; 2] = ["10.99.0.5", "fd99::5"];

/// Puts the client behind the gateway, too, and has it tell nobody who it is: it knows the VIPs' Ethernet address, and does not ask for that.
fn out_of_sight(lab: &Lab) -> Result<()> {
    let gateway = lab.gateway().expect("it was asked for");
    gateway.namespace().without_redirects()?;
    lab.a().namespace().without_redirects()?;
    for (vip, far) in vips().into_iter().zip(FAR) {
        let (option, bits) = if vip.is_ipv4() { ("-4", 32) } else { ("-6", 128) };
        let mac = mac_text(lab.a().mac());
        lab.client().ip(&format!("{option} address add {far}/{bits} dev lo"))?;
        lab.client().ip(&format!("neigh replace {vip} lladdr {mac} dev eth0 nud permanent"))?;
        gateway.ip(&format!("{option} route add {far}/{bits} via {}", address(lab.client(), vip)))?;
        lab.a().ip(&format!("{option} route add {far}/{bits} via {}", address(gateway, vip)))?;
    }
    Ok(())
}

/// Has node `a` forget all its neighbours, again and again, in the midst of connections from the link and from behind the gateway: they go on,
/// since whom the program does not find is looked for.
fn go_on_without_neighbours(lab: &Lab) -> Result<()> {
    let mut probes = Vec::new();
    for (vip, far) in vips().into_iter().zip(FAR) {
        for from in [address(lab.client(), vip), far.parse().expect("an address")] {
            let settings = EchoSettings::new(SocketAddr::new(vip, 7), 4);
            probes.push(EchoProbe::start(lab.client(), EchoSettings { sources: vec![from], ..settings })?);
        }
    }
    let go_on = || probes.iter().try_for_each(|probe| probe.wait_exchanges(5, LIMIT));
    let looked_for = || lab.a().counted("tandem_lbd_kernel_next_hops_total", "what=\"looked_for\"");
    let next_hops = vips().into_iter().flat_map(|vip| {
        [lab.client(), lab.gateway().expect("it was asked for")].map(|host| address(host, vip).to_string())
    });
    let next_hops: Vec<String> = next_hops.collect();
    let is_known = |hop: &String| {
        let said = lab.a().run("ip", &["neigh", "show", "to", hop]);
        said.is_ok_and(|said| said.contains("lladdr"))
    };
    go_on()?;
    let before = looked_for()?;
    for _ in 0..3 {
        // It gives up, and says so, where they keep coming back.
        lab.a().run("sh", &["-c", "ip neigh flush all || true"])?;
        // What the program remembers of the way to a client lasts a second.
        wait_until("all of them to be known again", LIMIT, || next_hops.iter().all(is_known))?;
        go_on()?;
    }
    assert!(looked_for()? > before, "nobody else has them looked for");
    for probe in probes {
        let report = probe.stop()?;
        assert_eq!(report.broken(), 0, "{}", report.summary());
    }
    Ok(())
}

#[test]
fn in_the_driver() -> Result<()> {
    let lab = Lab::builder("kernel-xdp").targets(2).gateway().build()?;
    lab.prepare_for_xdp()?;
    out_of_sight(&lab)?;
    let nat = text(&lab, "xdp", "mode = \"nat\"") + &service(&lab, "echo", "mode = \"nat\"", &["7"], 7, "");
    start(&lab, &nat)?;
    served(&lab)?;
    assert!(attached(&lab, "xdp"), "{}", status(&lab)?["kernel"]);
    go_on_without_neighbours(&lab)?;
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

/// Gives node `a` a bridge above its `eth0`, which has all its addresses and the VIPs.
fn bridge(lab: &Lab) -> Result<()> {
    let node = lab.a();
    node.ip("link add br0 type bridge stp_state 0 forward_delay 0 mcast_snooping 0")?;
    node.ip(&format!("link set br0 address {}", mac_text(node.mac())))?;
    node.ip("address flush dev eth0")?;
    node.ip("link set eth0 master br0")?;
    node.ip("link set br0 up")?;
    for vip in vips() {
        let (bits, rest) = if vip.is_ipv4() { (LAN_PREFIX_V4, "") } else { (LAN_PREFIX_V6, " nodad") };
        for own in [address(node, vip), vip] {
            node.ip(&format!("address add {own}/{bits} dev br0{rest}"))?;
        }
    }
    Ok(())
}

/// A bridge has no driver: it is said that the program cannot be there, and nothing takes its place unasked.
#[test]
fn where_there_is_no_driver_that_is_said_and_nothing_is_attached() -> Result<()> {
    let lab = Lab::builder("kernel-no-driver").targets(2).build()?;
    bridge(&lab)?;
    lab.write_config_text(&text(&lab, "xdp", "mode = \"nat\""))?;
    lab.a().start_lbd()?;
    let why =
        "cannot attach the forwarding program to br0: its driver has no hook for XDP; with `attach = \"tc\"`";
    let has_said = |told: &str| told.replace('\\', "").contains(why);
    wait_until("the status to say it", LIMIT, || {
        status(&lab).is_ok_and(|status| has_said(&status["kernel"]["troubles"].to_string()))
    })?;
    // Lines are written by a thread of their own.
    wait_until("the log to say it", LIMIT, || has_said(&lab.a().log("lbd")))?;
    let kernel = status(&lab)?["kernel"].clone();
    assert_eq!(kernel["interfaces"], serde_json::json!([]), "{kernel}");
    let links = lab.a().run("ip", &["-details", "link", "show"])?;
    assert!(!links.contains("xdp"), "not in the generic mode either: {links}");
    assert!(vips().into_iter().all(|vip| answerer(&lab, vip).is_none()), "nobody forwards");
    // The doctor says what is wrong, also while nothing runs.
    let program = binary("lbd")?.display().to_string();
    let config = lab.dir().join("pair.toml").display().to_string();
    let folder = run_dir(&lab);
    let words = ["doctor", "--config", &config, "--node", "a", "--run-dir", &folder];
    let doctor = || lab.a().run(&program, &words).expect_err("something is bad").to_string();
    let told = doctor();
    assert!(told.contains("BAD   attaching: ") && has_said(&told), "{told}");
    lab.a().stop("lbd")?;
    let told = doctor();
    assert!(told.contains("BAD   br0: a bridge has no driver") && !has_said(&told), "{told}");
    // Where it is asked for TC, it is there.
    lab.write_config_text(&text(&lab, "tc", "mode = \"nat\""))?;
    lab.a().start_lbd()?;
    served(&lab)?;
    wait_until("its status to say so", LIMIT, || attached(&lab, "tcx"))?;
    assert_eq!(status(&lab)?["kernel"]["interfaces"][0]["name"], "br0");
    lab.finish()
}

/// Gives node `a` a network behind a bridge, which has no driver, and answers with a target there: its Ethernet address is known, and nobody is it.
fn behind_a_bridge(lab: &Lab) -> Result<SocketAddr> {
    let node = lab.a();
    node.ip("link add far0 type veth peer name far1")?;
    node.ip("link add br1 type bridge stp_state 0 forward_delay 0 mcast_snooping 0")?;
    node.ip("link set far0 master br1")?;
    for link in ["far0", "far1", "br1"] {
        node.ip(&format!("link set {link} up"))?;
    }
    node.ip("address add 10.98.0.1/24 dev br1")?;
    node.ip("neigh replace 10.98.0.2 lladdr 02:00:0a:62:00:02 dev br1 nud permanent")?;
    Ok(SocketAddr::from(([10, 98, 0, 2], 80)))
}

/// What would go by an interface without the program would be lost, or its answers would: a target there gets nothing while another one can be
/// reached.
#[test]
fn a_target_behind_an_interface_without_the_program_has_no_place() -> Result<()> {
    let lab = Lab::builder("kernel-without").targets(1).build()?;
    lab.prepare_for_xdp()?;
    lab.introduce_client()?;
    let (vip, far) = (vips()[0], behind_a_bridge(&lab)?);
    let near = SocketAddr::new(address(&lab.targets()[0], vip), 80);
    let text = |attach: &str| {
        format!(
            "[kernel]\nattach = \"{attach}\"\n\
             [[service]]\nname = \"web\"\nmode = \"nat\"\nlisten = [\"{}\"]\nforward = \"web\"\n\
             [[target_group]]\nname = \"web\"\n\
             targets = [{{ id = \"near\", address = \"{near}\" }}, {{ id = \"far\", address = \"{far}\" }}]\n",
            SocketAddr::new(vip, 80)
        )
    };
    start(&lab, &text("xdp"))?;
    let why = "cannot attach the forwarding program to br1: its driver has no hook for XDP";
    wait_until("the status to say it", LIMIT, || {
        status(&lab).is_ok_and(|status| status["kernel"]["troubles"].to_string().contains(why))
    })?;
    let all_near = || (0..32).all(|_| answerer(&lab, vip).is_some());
    wait_until("all connections at the target whose interface has the program", LIMIT, all_near)?;
    // With the program there it has its share, though nobody answers.
    reload_text(&lab, &text("tc"))?;
    let begun = || lab.a().counted("tandem_lbd_kernel_target_new_flows_total", "target=\"far\"");
    let before = begun()?;
    wait_until("connections to the target behind the bridge", LIMIT, || {
        answerer(&lab, vip);
        begun().is_ok_and(|begun| begun > before)
    })?;
    wait_until("the status to say it no more", LIMIT, || {
        status(&lab).is_ok_and(|status| !status["kernel"]["troubles"].to_string().contains("br1"))
    })?;
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
    if has_links(&lab)? {
        wait_until("another way", LIMIT, || filters().is_ok_and(|it| !it.contains("handle 0x7a")))?;
    } else {
        let said = |why: &str| why.starts_with("the kernel has no tcx links");
        wait_until("why it is a filter still", LIMIT, || {
            let status = status(&lab).unwrap_or_default();
            status["kernel"]["interfaces"][0]["why"].as_str().is_some_and(said)
        })?;
        assert_eq!(filters()?.matches("handle 0x7a").count(), 1, "{}", filters()?);
    }
    served(&lab)?;
    lab.finish()
}

/// How many bytes node `a` has sent by its `eth0`, as its counters have it, while the client fetches what is 1 MiB.
fn sent_for_large(lab: &Lab) -> Result<u64> {
    let sent = || Ok(lab.a().passed()?[1].bytes);
    let before = sent()?;
    served(lab)?;
    Ok(sent()? - before)
}

/// Packets pass by the sending side of a veth, its counters among it, unless something there has to see them.
#[test]
fn the_other_end_of_a_veth_gets_packets_at_once_where_nothing_is_between() -> Result<()> {
    let lab = Lab::builder("kernel-veth").targets(2).build()?;
    start(&lab, &text(&lab, "auto", "mode = \"nat\""))?;
    let handed = |at_once: bool| {
        wait_until("packets to take the other way", LIMIT, || {
            sent_for_large(&lab).is_ok_and(|bytes| if at_once { bytes < 1 << 20 } else { bytes > 2 << 20 })
        })
    };
    handed(true)?;
    lab.a().run("tc", &["qdisc", "add", "dev", "eth0", "root", "pfifo"])?;
    handed(false)?;
    lab.a().run("tc", &["qdisc", "delete", "dev", "eth0", "root"])?;
    handed(true)?;
    lab.a().run("ethtool", &["-K", "eth0", "tso", "off"])?;
    handed(false)?;
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

//! No packet is lost either where others have filters at the same interface, which stay as they are, nor in the driver (XDP), nor
//! through tunnels: while `lbd` is killed, started again, and replaced by one whose maps look different.

use std::net::{IpAddr, SocketAddr};

use integration::lab::addresses::{vip4, vip6};
use integration::lab::clock::wait_until;
use integration::lab::tunnel::{Tunnel, TunnelEnd};
use integration::lab::{Lab, Result, binary};
use nix::sys::signal::Signal;

use crate::kernel_support::{LIMIT, address, reload_text, start, status};
use crate::lossless::{Load, family, lab, layout, other_version, send_once, served, servers, text_with};

/// Filters of somebody else's, in front of ours and behind it, and of what goes out.
const THEIRS: [(&str, &str, &str); 3] = [
    ("ingress", "1", "match ip dport 9999 0xffff"),
    ("ingress", "50", "match u32 0 0"),
    ("egress", "50", "match u32 0 0"),
];

/// What `tc` says of them.
fn theirs(lab: &Lab) -> Result<Vec<String>> {
    let show = |&(way, priority, _): &(&str, &str, &str)| {
        lab.a().run("tc", &["filter", "show", "dev", "eth0", way, "prio", priority])
    };
    THEIRS.iter().map(show).collect()
}

/// Kills `lbd` twice, and has it replaced by one that takes its maps for another layout's and back, all under load.
fn lives(lab: &Lab, load: &Load, how: &str, mut each: impl FnMut() -> Result<()>) -> Result<()> {
    let attached = || {
        wait_until(&format!("the program attached by {how}"), LIMIT, || {
            status(lab).is_ok_and(|status| status["kernel"]["interfaces"][0]["attached"] == how)
        })
    };
    attached()?;
    for _ in 0..2 {
        lab.a().signal("lbd", Signal::SIGKILL)?;
        lab.a().wait_end("lbd", LIMIT)?;
        load.goes_on()?;
        each()?;
        lab.a().start_lbd()?;
        attached()?;
        load.goes_on()?;
        each()?;
    }
    for program in [other_version(lab)?, binary("lbd")?] {
        let before = layout(lab)?.0;
        lab.a().stop("lbd")?;
        load.goes_on()?;
        lab.a().start_build("lbd", &program)?;
        wait_until("the other maps in use, and the ones before gone", LIMIT, || {
            layout(lab).is_ok_and(|(folder, _)| !folder.is_empty() && folder != before)
                && lab.a().run("sh", &["-c", "ls /sys/fs/bpf/tandem"]).is_ok_and(|it| it.lines().count() == 2)
        })?;
        attached()?;
        load.goes_on()?;
        each()?;
    }
    Ok(())
}

/// In either way of attaching, with the filters of others there first.
fn beside_others(label: &str, attach: &str, how: &str) -> Result<()> {
    let lab = lab(label)?;
    lab.a().run("tc", &["qdisc", "add", "dev", "eth0", "clsact"])?;
    for (way, priority, matching) in THEIRS {
        let words = format!(
            "filter add dev eth0 {way} protocol ip prio {priority} u32 {matching} flowid 1:{priority}"
        );
        lab.a().run("tc", &words.split(' ').collect::<Vec<_>>())?;
    }
    let before = theirs(&lab)?;
    assert!(before.iter().all(|filter| filter.contains("u32")), "{before:?}");
    let kernel = format!("max_flows = 100000\nattach = \"{attach}\"");
    start(&lab, &text_with(&lab, [1, 1], &kernel))?;
    served(&lab, &servers())?;
    let load = Load::begin(&lab)?;
    let unchanged = || -> Result<()> {
        assert_eq!(theirs(&lab)?, before);
        let ours = lab.a().run("tc", &["filter", "show", "dev", "eth0", "ingress"])?;
        assert_eq!(ours.matches("handle 0x7a").count(), usize::from(how == "clsact"), "{ours}");
        Ok(())
    };
    unchanged()?;
    lives(&lab, &load, how, unchanged)?;
    load.end(&lab)?;
    // And they stay when ours goes for good.
    let target = lab.targets()[0].http_address();
    reload_text(
        &lab,
        &format!(
            "[[service]]\nname = \"proxied\"\nmode = \"tcp\"\nlisten = [\"{}:8000\"]\nforward = \"proxied\"\n\
             [[target_group]]\nname = \"proxied\"\ntargets = [{{ address = \"{target}\" }}]\n",
            vip4(0)
        ),
    )?;
    assert_eq!(theirs(&lab)?, before);
    assert!(!lab.a().run("tc", &["filter", "show", "dev", "eth0", "ingress"])?.contains("handle 0x7a"));
    lab.finish()
}

#[test]
fn as_a_filter_among_those_of_others() -> Result<()> {
    beside_others("kernel-beside", "clsact", "clsact")
}

#[test]
fn as_a_link_in_front_of_filters_of_others() -> Result<()> {
    beside_others("kernel-before", "auto", "tcx")
}

/// Without what the offloads do, which the driver's program has no use for, and with less to do: before it a veth has little room.
#[test]
fn in_the_driver() -> Result<()> {
    let lab = lab("kernel-in-driver")?;
    lab.prepare_for_xdp()?;
    lab.introduce_client()?;
    start(&lab, &text_with(&lab, [1, 1], "max_flows = 100000\nattach = \"xdp\""))?;
    served(&lab, &servers())?;
    let load = Load::begin_beside(&lab, &servers()[..1], Vec::new())?;
    lives(&lab, &load, "xdp", || Ok(()))?;
    load.end(&lab)?;
    lab.finish()
}

/// Each with virtual IPs and two targets of its own.
const TUNNELS: [(&str, Tunnel); 3] = [("ipip", Tunnel::Ipip), ("gre", Tunnel::Gre), ("gue", Tunnel::Gue)];

/// The virtual IPs of a tunnel.
fn vips_of(place: usize) -> [IpAddr; 2] {
    let index = u8::try_from(place).unwrap();
    [vip4(index).into(), vip6(index).into()]
}

fn text_of_tunnels(lab: &Lab) -> String {
    let mut text = "[kernel]\nmax_flows = 100000\n".to_owned();
    for (place, (way, _)) in TUNNELS.iter().enumerate() {
        for vip in vips_of(place) {
            for (what, port) in [("http", 80), ("echo", 7)] {
                let name = format!("{way}-{what}{}", family(vip));
                let targets = lab.targets()[2 * place..][..2].iter().map(|target| {
                    let address = SocketAddr::new(address(target, vip), port);
                    format!("{{ id = \"{}\", address = \"{address}\" }}", target.name())
                });
                text.push_str(&format!(
                    "[[service]]\nname = \"{name}\"\nmode = \"dsr\"\ndsr = \"{way}\"\nlisten = [\"{}\"]\nforward = \"{name}\"\n\
                     [[target_group]]\nname = \"{name}\"\ntargets = [{}]\n",
                    SocketAddr::new(vip, port),
                    targets.collect::<Vec<_>>().join(", ")
                ));
            }
        }
    }
    text
}

#[test]
fn through_tunnels() -> Result<()> {
    let lab = Lab::builder("kernel-tunnels").targets(6).build()?;
    send_once(&lab)?;
    let (mut ends, mut servers) = (Vec::new(), Vec::new());
    for (place, (_, tunnel)) in TUNNELS.into_iter().enumerate() {
        for vip in vips_of(place) {
            lab.a().add_address(vip)?;
            lab.targets()[2 * place..][..2].iter().try_for_each(|target| target.accept_vip(vip))?;
            servers.push((SocketAddr::new(vip, 80), SocketAddr::new(vip, 7)));
        }
        for target in &lab.targets()[2 * place..][..2] {
            ends.push(TunnelEnd::start(target, tunnel)?);
        }
    }
    lab.write_config_text(&text_of_tunnels(&lab))?;
    lab.a().start_lbd()?;
    served(&lab, &servers)?;
    let load = Load::begin_beside(&lab, &servers, Vec::new())?;
    lives(&lab, &load, "tcx", || Ok(()))?;
    load.end(&lab)?;
    for end in ends {
        let unwrapped = end.stop()?;
        assert!(unwrapped.packets > 0 && unwrapped.malformed == 0, "{unwrapped:?}");
    }
    lab.finish()
}

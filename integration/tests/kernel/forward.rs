//! Services that the kernel forwards, from a client over veth with all offloads on to nginx and back: NAT, NAT that keeps the
//! client's address, and direct server return; and that no `lbd` is needed for it to go on.

use std::collections::BTreeSet;
use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};

use integration::lab::addresses::{vip4, vip6};
use integration::lab::clock::{wait_for, wait_until};
use integration::lab::probe::talker;
use integration::lab::{Lab, Result, binary, http};
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::kernel_support::{LIMIT, PATIENCE, answerer, bulk, flows, forwarding, reload, status, vips};

/// Whether the client's datagram to port 7 of a VIP is echoed.
fn echoed(lab: &Lab, vip: IpAddr) -> bool {
    let ask = || -> io::Result<bool> {
        let socket = talker(SocketAddr::new(vip, 7), PATIENCE)?;
        let mut answer = [0; 16];
        // The second one belongs to a flow that is known.
        for _ in 0..2 {
            socket.send(b"hello")?;
            let length = socket.recv(&mut answer)?;
            if &answer[..length] != b"hello" {
                return Ok(false);
            }
        }
        Ok(true)
    };
    lab.client().namespace().inside(ask).is_ok_and(|answer| answer.unwrap_or(false))
}

/// Waits until both families are served by both targets over TCP, and over UDP with `echo`.
fn served(lab: &Lab, echo: bool) -> Result<()> {
    for vip in vips() {
        let mut seen = BTreeSet::new();
        wait_until(&format!("answers of both targets through {vip}"), LIMIT, || {
            seen.extend(answerer(lab, vip));
            seen.len() == 2
        })?;
        if echo {
            wait_until(&format!("an echo from {vip}"), LIMIT, || echoed(lab, vip))?;
        }
        // Many segments at once, as large as the offloads make them.
        let large = || http::tcp(SocketAddr::new(vip, 80), "GET", "/large", "", LIMIT);
        let answer = lab.client().namespace().inside(large)??;
        assert_eq!((answer.status, answer.body.len()), (200, 1 << 20));
        bulk(lab, vip)?;
    }
    Ok(())
}

#[test]
fn nat_goes_on_without_lbd_and_follows_the_targets() -> Result<()> {
    let lab = forwarding("kernel-nat", "mode = \"nat\"")?;
    served(&lab, true)?;
    let untroubled = || {
        let kernel = status(&lab).map(|status| status["kernel"].clone()).unwrap_or_default();
        kernel["interfaces"][0]["name"] == "eth0" && kernel["troubles"] == Value::Array(Vec::new())
    };
    wait_until("ways to all targets", LIMIT, untroubled)?;
    let mut load = lab.client().command("wrk");
    load.args(["-c", "32", "-t", "1", "-d", "6", &format!("http://{}/", vip4(0))]);
    lab.client().start("wrk", load)?;
    for _ in 0..2 {
        let before = new_flows(&lab)?;
        lab.a().signal("lbd", Signal::SIGKILL)?;
        lab.a().wait_end("lbd", LIMIT)?;
        // Nobody is there but the kernel.
        assert!(answerer(&lab, vip4(0).into()).is_some() && echoed(&lab, vip6(0).into()));
        lab.a().start_lbd()?;
        wait_until("the counters of before", LIMIT, || new_flows(&lab).is_ok_and(|flows| flows > before))?;
    }
    reload(&lab, "mode = \"nat\"\non_unhealthy = \"move\"")?;
    lab.client().wait_end("wrk", LIMIT)?;
    let said = lab.client().log("wrk");
    assert!(said.contains("Requests/sec") && !said.contains("Socket errors"), "{said}");
    // A drained target gets nothing new.
    for family in ["4", "6"] {
        let path = format!("/v1/target-groups/web{family}/targets/t1");
        assert_eq!(lab.a().send("lbd", "PATCH", &path, "{\"state\":\"drain\"}")?.status, 200);
    }
    alone(&lab, "t2")?;
    for family in ["4", "6"] {
        let path = format!("/v1/target-groups/web{family}/targets/t1");
        assert_eq!(lab.a().send("lbd", "PATCH", &path, "{\"state\":\"ready\"}")?.status, 200);
    }
    served(&lab, true)?;
    // A target that fails its checks gets nothing new either.
    lab.targets()[1].stop("nginx")?;
    alone(&lab, "t1")?;
    lab.targets()[1].start_http()?;
    served(&lab, true)?;
    let flows: Value = lab.a().get("lbd", "/v1/flows?service=web4&max=2")?.json()?;
    assert!(flows["flows"].as_array().is_some_and(|flows| flows.len() == 2), "{flows}");
    lists_flows(&lab)?;
    shows_packets(&lab)?;
    assert!(lab.a().get("lbd", "/metrics")?.body.contains("tandem_lbd_kernel_service_packets_total"));
    lab.finish()
}

/// What `lbd` prints with these arguments.
fn lbd(lab: &Lab, arguments: &[&str]) -> Result<String> {
    let run_dir = lab.a().run_dir().display().to_string();
    lab.a().run(&binary("lbd")?.display().to_string(), &[arguments, &["--run-dir", &run_dir]].concat())
}

/// `lbd status --flows` says what is asked for, and nothing else.
fn lists_flows(lab: &Lab) -> Result<()> {
    let client = lab.client().v4().to_string();
    let asked =
        ["status", "--flows", "--service", "web4", "--protocol", "tcp", "--client", &client, "--max", "2"];
    let said = lbd(lab, &asked)?;
    let rows: Vec<&str> = said.lines().filter(|line| line.starts_with("tcp ")).collect();
    assert!(rows.len() == 2 && said.contains("--max"), "{said}");
    assert!(rows.iter().all(|row| row.contains(" web4 ") && row.contains(&client)), "{said}");
    let said = lbd(lab, &["status", "--flows", "--client", "203.0.113.1"])?;
    assert!(said.contains("VIRTUAL IP") && !said.contains("tcp "), "{said}");
    let said = lbd(lab, &["status", "--flows", "--target", "web6/t1", "--json"])?;
    let flows: Value = serde_json::from_str(&said).expect("JSON");
    let all = flows["flows"].as_array().cloned().unwrap_or_default();
    assert!(!all.is_empty() && all.iter().all(|flow| flow["target"] == "web6/t1"), "{said}");
    Ok(())
}

/// `lbd doctor --trace` shows packets as they come, and leaves nothing behind when it is told to stop.
fn shows_packets(lab: &Lab) -> Result<()> {
    let mut trace = lab.a().command(&binary("lbd")?.display().to_string());
    trace.args([
        "doctor",
        "--trace",
        "--seconds",
        "600",
        "--run-dir",
        &lab.a().run_dir().display().to_string(),
    ]);
    lab.a().start("trace", trace)?;
    let (client, vip) = (lab.client().v4(), vip4(0));
    let shown = |from: String, verdict: &str| {
        let said = lab.a().log("trace");
        said.lines().any(|line| line.contains(&from) && line.contains(verdict))
    };
    wait_until("packets both ways", LIMIT, || {
        let asked = answerer(lab, vip.into()).is_some();
        asked && shown(format!("tcp {client}:"), " forwarded, ") && shown(format!("> {vip}:"), " returned, ")
    })?;
    // What is shown to one is not shown to another: there is one at a time, and it goes on.
    let refused = lbd(lab, &["doctor", "--trace"]).expect_err("one at a time").to_string();
    assert!(refused.contains("another `lbd doctor --trace` is under way"), "{refused}");
    let lines = || lab.a().log("trace").lines().count();
    let before = lines();
    wait_until("more packets", LIMIT, || answerer(lab, vip.into()).is_some() && lines() > before)?;
    lab.a().signal("trace", Signal::SIGINT)?;
    lab.a().wait_end("trace", LIMIT)?;
    nothing_is_traced(lab)?;
    // One that is killed leaves it on, for the next one to turn off.
    let mut killed = lab.a().command(&binary("lbd")?.display().to_string());
    killed.args(["doctor", "--trace", "--seconds", "600", "--run-dir"]).arg(lab.a().run_dir());
    lab.a().start("killed", killed)?;
    wait_until("a packet", LIMIT, || {
        answerer(lab, vip.into()).is_some() && !lab.a().log("killed").is_empty()
    })?;
    lab.a().signal("killed", Signal::SIGKILL)?;
    lab.a().wait_end("killed", LIMIT)?;
    assert!(answerer(lab, vip.into()).is_some());
    let said = lbd(lab, &["doctor", "--trace", "--seconds", "1"])?;
    // Samples went on, and none of them is shown as if it were of now.
    assert!(said.contains(" from before this trace are passed over\n"), "{said}");
    assert!(!said.contains(&format!("tcp {client}:")), "{said}");
    nothing_is_traced(lab)?;
    // And when nobody reads any more.
    let mut first = lab.a().command("bash");
    let (program, run_dir) = (binary("lbd")?, lab.a().run_dir().to_owned());
    let trace = format!("{} doctor --trace --seconds 600 --run-dir {}", program.display(), run_dir.display());
    first.args(["-c", &format!("set -o pipefail; {trace} | head -n 1")]);
    lab.a().start("first", first)?;
    wait_until("the first packet, and the end", LIMIT, || {
        answerer(lab, vip.into()).is_some() && !lab.a().running("first")
    })?;
    assert!(lab.a().wait_end("first", LIMIT)?.success(), "{}", lab.a().log("first"));
    assert_eq!(lab.a().log("first").lines().count(), 1, "{}", lab.a().log("first"));
    nothing_is_traced(lab)
}

/// What was still taken would lie in the ring now, and be said to be passed over.
fn nothing_is_traced(lab: &Lab) -> Result<()> {
    let vip: IpAddr = vip4(0).into();
    assert!(answerer(lab, vip).is_some() && echoed(lab, vip));
    let left = lbd(lab, &["doctor", "--trace", "4294967295", "--seconds", "1"])?;
    assert_eq!(left, "");
    Ok(())
}

/// Waits until every answer is this target's.
fn alone(lab: &Lab, target: &str) -> Result<()> {
    for vip in vips() {
        let only = || (0..16).all(|_| answerer(lab, vip).is_none_or(|it| it == target));
        wait_until(&format!("only {target} to answer for {vip}"), LIMIT, only)?;
    }
    Ok(())
}

/// Flows that the service `web4` has begun.
fn new_flows(lab: &Lab) -> Result<u64> {
    let status = status(lab)?;
    let services = status["services"].as_array().cloned().unwrap_or_default();
    let web = services.iter().find(|service| service["name"] == "web4").cloned().unwrap_or_default();
    Ok(web["kernel"]["new_flows"].as_u64().unwrap_or(0))
}

/// Has the echo server say the same.
fn repeated(connection: &mut TcpStream) -> io::Result<()> {
    connection.write_all(b"more")?;
    connection.read_exact(&mut [0; 4])
}

/// A new connection to the echo server, if it has a port of the VIP.
fn translated(lab: &Lab, vip: IpAddr) -> Option<TcpStream> {
    let connect = || TcpStream::connect_timeout(&SocketAddr::new(vip, 7), PATIENCE);
    let mut connection = lab.client().namespace().inside(connect).ok()?.ok()?;
    connection.set_read_timeout(Some(PATIENCE)).ok()?;
    repeated(&mut connection).ok()?;
    let client = connection.local_addr().ok()?.to_string();
    let listed = flows(lab, if vip.is_ipv4() { "echo4" } else { "echo6" }).ok()?;
    let is_translated = |flow: &Value| flow["client"] == client && flow["nat_port"].is_u64();
    listed.iter().any(is_translated).then_some(connection)
}

#[test]
fn targets_see_the_client_and_may_answer_it_directly() -> Result<()> {
    let lab = forwarding("kernel-client", "mode = \"nat\"\npreserve_client_ip = true")?;
    // The answers come back through node `a`.
    for target in lab.targets() {
        target.ip(&format!("route add {}/32 via {}", lab.client().v4(), lab.a().v4()))?;
        target.ip(&format!("-6 route add {}/120 via {}", lab.client().v6(), lab.a().v6()))?;
    }
    served(&lab, true)?;
    // Who has been somebody else to his target is reset by it when he goes on, and does not wait for answers that nobody knows.
    reload(&lab, "mode = \"nat\"")?;
    served(&lab, true)?;
    for vip in vips() {
        let mut known = wait_for("a connection with a port of the VIP", LIMIT, || translated(&lab, vip))?;
        reload(&lab, "mode = \"nat\"\npreserve_client_ip = true")?;
        wait_until("the connection's end", LIMIT, || {
            repeated(&mut known).is_err_and(|error| error.kind() != io::ErrorKind::WouldBlock)
        })?;
        reload(&lab, "mode = \"nat\"")?;
    }
    for target in lab.targets() {
        target.ip(&format!("route delete {}/32", lab.client().v4()))?;
        target.ip(&format!("-6 route delete {}/120", lab.client().v6()))?;
        for vip in vips() {
            target.accept_vip(vip)?;
        }
    }
    reload(&lab, "mode = \"dsr\"\ndsr = \"l2\"")?;
    // The echo server answers datagrams from its host's own address.
    served(&lab, false)?;
    // Without such a service nothing is left in the kernel.
    let target = lab.targets()[0].http_address();
    lab.write_config_text(&format!(
        "[[service]]\nname = \"proxied\"\nmode = \"tcp\"\nlisten = [\"{}:8000\"]\nforward = \"proxied\"\n\
         [[target_group]]\nname = \"proxied\"\ntargets = [{{ address = \"{target}\" }}]\n",
        vip4(0)
    ))?;
    let answer = lab.a().send("lbd", "POST", "/v1/reload", "")?;
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert_eq!(lab.a().run("sh", &["-c", "ls /sys/fs/bpf/tandem"])?.trim(), "");
    assert_eq!(status(&lab)?["kernel"], Value::Null);
    lab.finish()
}

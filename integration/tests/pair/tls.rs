//! TLS at the virtual IPs of a pair: sessions go on at whichever node has them.

use std::net::{IpAddr, SocketAddr};
use std::process::Stdio;

use crate::pair_support::{agreed, every, owned_by, start_all, vips, vrrpd};
use integration::lab::config::PairConfig;
use integration::lab::{Lab, Node, Result, Target, certificate};

/// A pair that serves HTTPS: `a` is active.
fn serving(label: &str) -> Result<Lab> {
    let lab = Lab::builder(label).targets(2).build()?;
    let targets: Vec<SocketAddr> = lab.targets().iter().map(Target::http_address).collect();
    let tls = format!("tls = {{ certificates = [{:?}] }}", certificate::create(lab.dir())?);
    let config = PairConfig::new(vec![every("100ms")])
        .service("web", "http", "@web:443", "web", &tls)
        // By which it is seen that clients are served at all.
        .service("clear", "http", "@web:80", "web", "")
        .target_group("web", &targets, "");
    lab.write_config(&config)?;
    start_all(&lab)?;
    Ok(lab)
}

/// Has openssl ask for a page, with further words of its own; answers what it says.
fn ask(lab: &Lab, vip: IpAddr, words: &str) -> String {
    use std::io::Write as _;
    let mut command = lab.client().command("openssl");
    command.args([
        "s_client",
        "-connect",
        &SocketAddr::new(vip, 443).to_string(),
        "-servername",
        "shop.example",
        "-ign_eof",
    ]);
    command.args(words.split(' ')).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().expect("openssl is there");
    let request = "GET /health HTTP/1.1\r\nHost: shop.example\r\nConnection: close\r\n\r\n";
    child.stdin.take().expect("it has one").write_all(request.as_bytes()).expect("it reads");
    let output = child.wait_with_output().expect("it ends");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Requests that a node's `lbd` has answered with success.
fn answered(node: &Node) -> u64 {
    let services: serde_json::Value =
        node.get("lbd", "/v1/services").ok().and_then(|it| it.json().ok()).unwrap_or_default();
    services[0]["requests"]["answered"]["2xx"].as_u64().unwrap_or(0)
}

#[test]
fn a_session_goes_on_at_the_other_node() -> Result<()> {
    let lab = serving("tls sessions")?;
    let [a, b] = lab.nodes();
    let sessions: Vec<(IpAddr, &str, String)> = vips()
        .into_iter()
        .enumerate()
        .flat_map(|(index, vip)| {
            let file =
                |version: &str| lab.dir().join(format!("session{index}{version}")).display().to_string();
            [(vip, "-tls1_2", file("2")), (vip, "-tls1_3", file("3"))]
        })
        .collect();
    for (vip, version, file) in &sessions {
        let text = ask(&lab, *vip, &format!("{version} -sess_out {file}"));
        assert!(text.contains("HTTP/1.1 200") && text.contains("New, TLSv1"), "{text}");
        let text = ask(&lab, *vip, &format!("{version} -sess_in {file} -sess_out {file}"));
        assert!(text.contains("HTTP/1.1 200") && text.contains("Reused, TLSv1"), "{text}");
    }
    assert_eq!((answered(a), answered(b)), (8, 0));
    let (good, _, complaint) = vrrpd(a, &["switchover", "web"]);
    assert!(good, "{complaint}");
    agreed(&lab, b)?;
    owned_by(&lab, b)?;
    for (vip, version, file) in &sessions {
        let text = ask(&lab, *vip, &format!("{version} -sess_in {file}"));
        assert!(text.contains("HTTP/1.1 200") && text.contains("Reused, TLSv1"), "{version}: {text}");
    }
    assert_eq!((answered(a), answered(b)), (8, 4));
    lab.finish()
}

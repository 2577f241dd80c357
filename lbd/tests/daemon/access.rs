//! Who is let in.

use std::io::ErrorKind;
use std::net::Ipv4Addr;

use crate::clients::{beside, fetch_from};
use crate::server::Server;
use crate::support::{Config, Folder, Lbd, eventually, own_ip};

#[test]
fn the_longest_prefix_decides() {
    let ip = own_ip();
    let server = Server::named((ip, 0).into(), "a");
    let (allowed, denied, unlisted) = (beside(ip, 1), beside(ip, 2), beside(ip, 3));
    let mut config = Config::new(ip, &[server.address]);
    config.service = format!(
        "access = {{ allow = [\"{allowed}\", {{ network = \"{denied}/16\", tag = \"office\" }}], deny = [{{ network = \"{denied}\", tag = \"abuse\" }}] }}"
    );
    // The network of the denied one without host bits.
    let [a, b, ..] = denied.octets();
    config.service = config.service.replace(&format!("{denied}/16"), &format!("{a}.{b}.0.0/16"));
    let folder = Folder::new();
    let log = folder.path().join("access.log");
    config.service = format!("{}\naccess_log = {{ file = \"{}\" }}", config.service, log.display());
    let lbd = Lbd::start_in(folder, &config);
    assert_eq!(fetch_from(allowed, lbd.address).unwrap(), "a");
    assert_eq!(fetch_from([a, b, 3, 4].into(), lbd.address).unwrap(), "a");
    for refused in [denied, unlisted] {
        assert_eq!(fetch_from(refused, lbd.address).unwrap_err().kind(), ErrorKind::ConnectionReset);
    }
    assert_eq!((lbd.refused("access"), lbd.service("connections_total")), (2, 2));
    // The log names the entry that decided, if that has a tag.
    let logged = |client: Ipv4Addr, tag: &str| {
        let text = std::fs::read_to_string(&log).unwrap_or_default();
        text.lines().any(|line| line.contains(&client.to_string()) && line.contains(tag))
    };
    eventually("they are logged", || logged(denied, "abuse") && logged([a, b, 3, 4].into(), "office"));
    let table = String::from_utf8(lbd.command(&["status"]).stdout).unwrap();
    let row = table.lines().find(|line| line.starts_with("web ")).unwrap();
    assert!(row.ends_with(" 2"), "those refused are shown, whatever the reason: {row}");
    // A reload takes effect with the next connection, in both directions.
    config.service = format!("access = {{ deny = [\"{allowed}\"] }}");
    assert_eq!(lbd.reload(&config).0, 200);
    assert!(fetch_from(allowed, lbd.address).is_err());
    assert_eq!(fetch_from(denied, lbd.address).unwrap(), "a");
    assert_eq!(server.accepted(), 3);
}

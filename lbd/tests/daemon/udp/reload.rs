//! Reloads that change where a service listens.

use std::io::ErrorKind;
use std::net::UdpSocket;

use super::{Answering, ask, client, config, metric};
use crate::support::{Lbd, free, own_ip};

#[test]
fn listeners_come_and_go_and_leave_the_others_alone() {
    let ip = own_ip();
    let server = Answering::echo(ip);
    let mut config = config(ip, &[&server]);
    let lbd = Lbd::start(&config);
    let kept = client(ip, lbd.address);
    assert_eq!(ask(&kept, b"one").unwrap(), b"one");
    let added = free(ip);
    config.listen.push(added);
    assert_eq!(lbd.reload(&config).0, 200);
    let new = client(ip, added);
    assert_eq!(ask(&new, b"two").unwrap(), b"two");
    config.listen.pop();
    assert_eq!(lbd.reload(&config).0, 200);
    assert_eq!(ask(&kept, b"three").unwrap(), b"three");
    assert_eq!(server.sessions(), 2, "the kept one has its session of before");
    let refused = ask(&new, b"four").unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    assert_eq!(metric(&lbd, "service_sessions_ended_total", "end=\"unlistened\""), 1);
    assert_eq!(lbd.service("connections_open"), 1);
    assert!(UdpSocket::bind(added).is_ok(), "the address is free again");
}

#[test]
fn a_busy_address_refuses_the_whole_reload() {
    let ip = own_ip();
    let server = Answering::echo(ip);
    let mut config = config(ip, &[&server]);
    let lbd = Lbd::start(&config);
    let taken = UdpSocket::bind((ip, 0)).unwrap();
    config.listen.push(taken.local_addr().unwrap());
    let (code, body) = lbd.reload(&config);
    assert_eq!(code, 409, "{body}");
    assert!(body.contains(&taken.local_addr().unwrap().to_string()), "{body}");
    assert_eq!(ask(&client(ip, lbd.address), b"as before").unwrap(), b"as before");
    drop(taken);
    assert_eq!(lbd.reload(&config).0, 200);
    assert_eq!(ask(&client(ip, config.listen[1]), b"now").unwrap(), b"now");
}

#[test]
fn an_address_that_changes_its_service_changes_its_targets() {
    let ip = own_ip();
    let servers = [Answering::named(ip, "a"), Answering::named(ip, "b")];
    let mut config = config(ip, &[&servers[0]]);
    let lbd = Lbd::start(&config);
    let client = client(ip, lbd.address);
    assert_eq!(ask(&client, b"?").unwrap(), b"a");
    config.targets[0].1 = servers[1].address;
    lbd.write_config(&config.text().replace("\"web\"", "\"other\"").replace("\"pool\"", "\"others\""));
    assert_eq!(lbd.ask("POST", "/v1/reload").0, 200);
    assert_eq!(ask(&client, b"?").unwrap(), b"b");
    assert_eq!(lbd.service("connections_total"), 1);
}

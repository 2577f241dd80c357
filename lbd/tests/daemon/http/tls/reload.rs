//! Certificates that change under open connections.

use nix::sys::signal::Signal;

use super::super::peers::{Target, get};
use super::peers::Client;
use super::{config, shop};
use crate::support::{Lbd, eventually, own_ip};

#[test]
fn new_handshakes_get_the_new_certificate_and_no_connection_is_lost() {
    let ip = own_ip();
    let (authority, target) = (shop(), Target::named(ip, "hello"));
    let bundle = authority.bundle("shop");
    let lbd = Lbd::start(&config(ip, &[target.address], &[&bundle]));
    let mut before: Vec<Client> =
        (0..8).map(|_| Client::new(&authority, lbd.address, "shop.example")).collect();
    for client in &mut before {
        assert_eq!(client.send(get("/")).answer().status(), 200);
    }
    let old = before[0].certificate();
    // Renewed in its place, as those who renew do.
    authority.sign("shop", "DNS:shop.example,DNS:*.shop.example", 60);
    assert_eq!(authority.bundle("shop"), bundle);
    lbd.signal(Signal::SIGHUP);
    eventually("a new client gets the new certificate", || {
        let mut client = Client::new(&authority, lbd.address, "shop.example");
        assert_eq!(client.send(get("/")).answer().status(), 200);
        client.certificate() != old
    });
    for client in &mut before {
        assert_eq!(client.send(get("/")).answer().status(), 200);
        assert_eq!(client.certificate(), old);
    }
    let shown = &lbd.status()["services"][0]["tls"]["certificates"][0];
    assert_eq!(shown["expires_soon"], false);
    // One that cannot be read changes nothing.
    std::fs::write(&bundle, "").unwrap();
    let (_, answer) = lbd.ask("POST", "/v1/reload");
    assert!(answer.contains("there is no certificate in it"), "{answer}");
    for client in &mut before {
        assert_eq!(client.send(get("/")).answer().status(), 200);
    }
    assert_eq!(Client::new(&authority, lbd.address, "shop.example").send(get("/")).answer().status(), 200);
}

//! Bodies, ends and tunnels: what is cut off is seen to be, and what is whole comes whole.

use std::io::{self, Read, Write};
use std::sync::{Arc, Mutex};

use super::super::peers::{Target, get};
use super::peers::{Client, bytes, target};
use super::{config, shop};
use crate::support::{Lbd, eventually, own_ip};

/// HTTP/1.0 clients get a body of unknown length until the end of the connection.
const OLD: &str = "GET / HTTP/1.0\r\nHost: shop.example\r\n\r\n";

#[test]
fn a_body_that_the_target_cut_off_has_no_end_for_the_client() {
    let ip = own_ip();
    let authority = shop();
    let clear = Target::with(ip, |_, stream| {
        stream
            .get_mut()
            .write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nwhole\r\n5\r\nhal")?;
        Ok(false)
    });
    let lbd = Lbd::start(&config(ip, &[clear.address], &[&authority.bundle("shop")]));
    let mut client = Client::new(&authority, lbd.address, "shop.example");
    client.send(OLD);
    let error = client.rest().expect_err("the end was not said");
    assert!(matches!(error.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset), "{error}");
    // Where the end of the connection is the end of the body, it is said.
    let whole = Target::with(ip, |_, stream| {
        stream.get_mut().write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nwhole")?;
        Ok(false)
    });
    let lbd = Lbd::start(&config(own_ip(), &[whole.address], &[&authority.bundle("shop")]));
    let mut client = Client::new(&authority, lbd.address, "shop.example");
    let text = String::from_utf8(client.send(OLD).rest().unwrap()).unwrap();
    assert!(text.ends_with("\r\n\r\nwhole"), "{text}");
}

/// Of a target with TLS the end of TCP alone is no end of a body.
#[test]
fn a_target_has_to_say_the_end_of_a_body_that_has_no_length() {
    let authority = shop();
    for says in [true, false] {
        let ip = own_ip();
        let address = target(ip, &authority.bundle("shop"), move |stream| {
            let mut head = [0; 1024];
            let _ = stream.read(&mut head)?;
            let stream = stream.get_mut();
            stream.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nwhole")?;
            if says {
                stream.conn.send_close_notify();
            }
            stream.flush()?;
            stream.sock.shutdown(std::net::Shutdown::Write)?;
            let _ = stream.read(&mut head)?;
            Ok(())
        });
        let mut config = config(ip, &[address], &[&authority.bundle("shop")]);
        config.group = format!(
            "tls = {{ ca_file = \"{}\", server_name = \"shop.example\" }}",
            authority.file().display()
        );
        let lbd = Lbd::start(&config);
        let mut client = Client::new(&authority, lbd.address, "shop.example");
        let rest = client.send(OLD).rest();
        assert_eq!(rest.is_ok(), says, "{rest:?}");
    }
}

#[test]
fn a_client_that_has_said_its_end_still_gets_its_answer() {
    let ip = own_ip();
    let (authority, target) = (shop(), Target::named(ip, "hello"));
    let lbd = Lbd::start(&config(ip, &[target.address], &[&authority.bundle("shop")]));
    let mut client = Client::new(&authority, lbd.address, "shop.example");
    client.send(get("/"));
    client.finish();
    assert_eq!(client.answer().text(), "hello");
    assert_eq!(client.rest().unwrap(), b"", "and hears of the end");
}

#[test]
fn requests_may_come_before_their_answers_are_read() {
    let ip = own_ip();
    let (authority, target) = (shop(), Target::named(ip, "hello"));
    let lbd = Lbd::start(&config(ip, &[target.address], &[&authority.bundle("shop")]));
    let mut client = Client::new(&authority, lbd.address, "shop.example");
    client.send(get("/").repeat(200));
    for _ in 0..200 {
        assert_eq!(client.answer().text(), "hello");
    }
    assert_eq!(target.seen().len(), 200);
}

/// Whoever takes nothing holds the sender up, and gets all of it later on.
#[test]
fn a_large_body_comes_whole_to_who_reads_late() {
    const SIZE: usize = 20_000_000;
    let ip = own_ip();
    let authority = shop();
    let body: Arc<Vec<u8>> = Arc::new((0..SIZE).map(|index| (index / 251).to_le_bytes()[0]).collect());
    let (sent, sending) = (Arc::new(Mutex::new(0)), Arc::clone(&body));
    let progress = Arc::clone(&sent);
    let target = Target::with(ip, move |_, stream| {
        let stream = stream.get_mut();
        write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {SIZE}\r\n\r\n")?;
        for part in sending.chunks(10_000) {
            stream.write_all(part)?;
            *progress.lock().unwrap() += part.len();
        }
        Ok(true)
    });
    let lbd = Lbd::start(&config(ip, &[target.address], &[&authority.bundle("shop")]));
    let mut client = Client::new(&authority, lbd.address, "shop.example");
    client.send(get("/"));
    let mut last = 0;
    eventually("the target is held up", || {
        std::thread::sleep(std::time::Duration::from_millis(300));
        let now = *sent.lock().unwrap();
        std::mem::replace(&mut last, now) == now && now > 0
    });
    assert!(last < SIZE);
    assert!(client.answer().body == *body);
}

#[test]
fn a_tunnel_goes_both_ways_and_each_end_by_itself() {
    let ip = own_ip();
    let authority = shop();
    let heard = Arc::new(Mutex::new(Vec::new()));
    let hearing = Arc::clone(&heard);
    let target = Target::with(ip, move |request, stream| {
        assert_eq!(request.field("upgrade"), Some("websocket"));
        stream.get_mut().write_all(
            b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nat once",
        )?;
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest)?;
        hearing.lock().unwrap().extend_from_slice(&rest);
        stream.get_mut().write_all(b" and at the end")?;
        Ok(false)
    });
    let lbd = Lbd::start(&config(ip, &[target.address], &[&authority.bundle("shop")]));
    let mut client = Client::new(&authority, lbd.address, "shop.example");
    client.send("GET /ws HTTP/1.1\r\nHost: shop.example\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nfrom the begin");
    assert_eq!(client.answer().status(), 101);
    assert_eq!(client.read(7), b"at once");
    client.send(" on");
    client.send("x".repeat(300_000));
    client.finish();
    assert_eq!(client.rest().unwrap(), b" and at the end");
    assert_eq!(heard.lock().unwrap().len(), 14 + 3 + 300_000);
    eventually("it has ended", || lbd.service("connections_open") == 0);
    assert_eq!(lbd.status()["services"][0]["ended"]["done"], 1);
}

/// A client that only vanishes has not finished.
#[test]
fn a_tunnel_that_is_cut_off_is_cut_off_for_the_target() {
    let ip = own_ip();
    let authority = shop();
    let ends = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&ends);
    let target = Target::with(ip, move |_, stream| {
        stream
            .get_mut()
            .write_all(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n")?;
        let read = stream.read_to_end(&mut Vec::new());
        seen.lock().unwrap().push(read.is_ok());
        Ok(false)
    });
    let lbd = Lbd::start(&config(ip, &[target.address], &[&authority.bundle("shop")]));
    let upgrade = "GET /ws HTTP/1.1\r\nHost: shop.example\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n";
    let mut client = Client::new(&authority, lbd.address, "shop.example");
    assert_eq!(client.send(upgrade).answer().status(), 101);
    client.raw().shutdown(std::net::Shutdown::Write).unwrap();
    eventually("the target sees it", || *ends.lock().unwrap() == [false]);
}

#[test]
fn a_large_upload_comes_whole() {
    let ip = own_ip();
    let authority = shop();
    let target = Target::named(ip, "taken");
    let lbd = Lbd::start(&config(ip, &[target.address], &[&authority.bundle("shop")]));
    let body = bytes(&authority.bundle("shop")).repeat(4000);
    let mut client = Client::new(&authority, lbd.address, "shop.example");
    client.send(format!("POST / HTTP/1.1\r\nHost: shop.example\r\nContent-Length: {}\r\n\r\n", body.len()));
    client.send(&body);
    assert_eq!(client.answer().text(), "taken");
    assert!(target.last().body == body);
}

//! etcd: the real server, over its JSON gateway.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};

use data_encoding::BASE64;

use super::{addresses, await_addresses, config, discovery, refresh};
use crate::server::Server;
use crate::support::{Folder, Lbd, eventually, free, own_ip, patient};

/// An etcd of one member, killed when dropped.
struct Etcd {
    address: SocketAddr,
    child: Child,
    /// Its data; removed after it has ended.
    _folder: Folder,
}

impl Etcd {
    fn start() -> Self {
        let folder = Folder::new();
        let ip = own_ip();
        let address = free(ip);
        let (client, peer) = (format!("http://{address}"), format!("http://{}", free(ip)));
        let child = Command::new("etcd")
            .env("ETCD_UNSUPPORTED_ARCH", std::env::consts::ARCH)
            .args(["--name", "one", "--log-level", "error", "--unsafe-no-fsync"])
            .arg("--data-dir")
            .arg(folder.path())
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &format!("one={peer}")])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("etcd is installed by scripts/setup test");
        let mut etcd = Self { address, child, _folder: folder };
        eventually("etcd serves", || {
            assert!(etcd.child.try_wait().unwrap().is_none(), "etcd ended");
            etcd.post("/v3/kv/range", &format!("{{\"key\":\"{}\"}}", BASE64.encode(b"x")))
                .contains("\"header\"")
        });
        etcd
    }

    fn post(&self, path: &str, body: &str) -> String {
        let Ok(mut stream) = TcpStream::connect(self.address) else { return String::new() };
        patient(&stream);
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: etcd\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        let mut text = String::new();
        match stream.write_all((head + body).as_bytes()).and_then(|()| stream.read_to_string(&mut text)) {
            Ok(_) => text,
            Err(_) => String::new(),
        }
    }

    fn put(&self, key: &str, value: &str) {
        let (key, value) = (BASE64.encode(key.as_bytes()), BASE64.encode(value.as_bytes()));
        let answer = self.post("/v3/kv/put", &format!("{{\"key\":\"{key}\",\"value\":\"{value}\"}}"));
        assert!(answer.contains("200 OK"), "{answer}");
    }

    fn delete(&self, key: &str) {
        let answer =
            self.post("/v3/kv/deleterange", &format!("{{\"key\":\"{}\"}}", BASE64.encode(key.as_bytes())));
        assert!(answer.contains("\"deleted\":\"1\""), "{answer}");
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

#[test]
fn keys_under_the_prefix_are_targets() {
    let ip = own_ip();
    let (a, b) = (Server::named((ip, 0).into(), "a"), Server::named((ip, 0).into(), "b"));
    let etcd = Etcd::start();
    etcd.put("/shop/a", &a.address.to_string());
    etcd.put("/shopping/z", "10.0.0.1:80");
    let discover = format!("etcd = \"http://{}\", prefix = \"/shop/\", refresh = \"1s\"", etcd.address);
    let lbd = Lbd::start(&config(&discover));
    assert_eq!(lbd.fetch().unwrap(), "a");

    etcd.put("/shop/b", &format!("{{\"address\":\"{}\",\"weight\":7,\"zone\":\"z1\"}}", b.address));
    etcd.put("/shop/c", "not an address");
    await_addresses(&lbd, &[a.address, b.address]);
    let status = lbd.status();
    let targets = status["target_groups"][0]["targets"].as_array().unwrap();
    let second = targets.iter().find(|target| target["id"] == "b").unwrap();
    assert_eq!((second["weight"].as_u64(), second["zone"].as_str()), (Some(7), Some("z1")));
    assert_eq!(discovery(&lbd)["unusable"], 1);

    etcd.delete("/shop/a");
    await_addresses(&lbd, &[b.address]);
    etcd.delete("/shop/b");
    let (code, body) = refresh(&lbd);
    assert!(code == 422 && body.contains("no target under"), "{code} {body}");
    assert_eq!(addresses(&lbd).len(), 1, "an empty answer is not taken");
    let address = etcd.address;
    drop(etcd);
    let (code, body) = refresh(&lbd);
    assert!(
        code == 502 && body.contains(&format!("etcd at http://{address}: cannot connect")),
        "{code} {body}"
    );
    assert_eq!(lbd.fetch().unwrap(), "b");
}

//! WebSockets between programs that others have written: over HTTP/1 and by extended CONNECT (RFC 8441), at either end.

use std::process::Command;

use super::config;
use crate::http::tls::{self, shop};
use crate::real::Process;
use crate::support::{Lbd, free, metric, own_ip};

/// Either end; what it can do stands at its begin.
fn python(arguments: &[&str]) -> Command {
    // Debian's interpreter is the one that has Debian's modules.
    let mut command = Command::new("/usr/bin/python3");
    command.args(["-c", include_str!("websockets.py")]).args(arguments);
    command
}

#[test]
fn websockets_pass_between_ends_of_either_kind() {
    let (ip, authority) = (own_ip(), shop());
    let bundle = authority.bundle("shop");
    for (role, keys) in [("serve1", ""), ("serve2", "protocol = \"http2\"\n")] {
        let address = free(ip);
        let mut server = Process::start(&mut python(&[role, &address.to_string()]));
        server.until_listening(&[address], None);
        let clear = (config(ip, &[address]), None);
        let encrypted = (tls::config(ip, &[address], &[&bundle]), Some(authority.file()));
        for (mut config, ca) in [clear, encrypted] {
            config.group = keys.to_owned();
            let lbd = Lbd::start(&config);
            for client in ["ask1", "ask2"] {
                let output = python(&[client, &lbd.address.to_string()]).args(&ca).output().unwrap();
                let what = format!("{client} at {role}, {ca:?}: {}", String::from_utf8_lossy(&output.stderr));
                assert!(output.status.success() && output.stdout == b"done\n", "{what}");
            }
            // One over HTTP/1, and two on one connection over HTTP/2.
            assert_eq!(metric(&lbd, "tandem_lbd_service_http_tunnels_total")["{service=\"web\"}"], 3);
        }
    }
}

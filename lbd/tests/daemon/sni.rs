//! TLS that is passed through, to a group by the server name that the client asks for.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use crate::clients::{handed_over, next};
use crate::real::Process;
use crate::server::Server;
use crate::support::{Config, Folder, Lbd, end_of, eventually, free, own_ip};

/// What `openssl s_client -servername a.example` says, made by hand: a TLS 1.2 hello with nothing but the name.
pub(crate) fn hello(name: &str) -> Vec<u8> {
    let with_length =
        |content: &[u8]| [&u16::try_from(content.len()).unwrap().to_be_bytes(), content].concat();
    let entry = [&[0][..], &with_length(name.as_bytes())].concat();
    let extension = [&[0, 0][..], &with_length(&with_length(&entry))].concat();
    let fixed = [&[3, 3][..], &[7; 32], &[0, 0, 2, 0xc0, 0x2f, 1, 0]].concat();
    let body = [fixed, with_length(&extension)].concat();
    let message = [&[1, 0][..], &with_length(&body)].concat();
    [&[22, 3, 1][..], &with_length(&message)].concat()
}

const RULES: &str = "[[service.rule]]\nwhen = { sni = [\"a.example\"] }\nforward = \"a\"\n\
                     [[service.rule]]\nwhen = { sni = [\"*.b.example\", \"b.example\"] }\nforward = \"b\"\n";

/// A group for each rule, beside the one that gets the rest.
fn config(ip: Ipv4Addr, [rest, a, b]: [SocketAddr; 3]) -> Config {
    let mut config = Config::new(ip, &[rest]);
    config.service = RULES.to_owned();
    let group = |name, address| {
        format!("[[target_group]]\nname = \"{name}\"\ntargets = [{{ address = \"{address}\" }}]\n")
    };
    config.group = format!("{}{}", group("a", a), group("b", b));
    config
}

/// nginx with a TLS server on each address that answers with its name, and how it was asked for.
fn nginx(folder: &Path, servers: [(&str, SocketAddr); 3]) -> Process {
    let mut command = Command::new("openssl");
    command.args([
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-days",
        "2",
    ]);
    command.args(["-subj", "/CN=test", "-keyout", "key.pem", "-out", "cert.pem"]).current_dir(folder);
    assert!(command.output().unwrap().status.success());
    let server = |(name, address): (&str, SocketAddr)| {
        format!(
            "server {{ listen {address} ssl; ssl_certificate cert.pem; ssl_certificate_key key.pem; \
             return 200 \"{name} $ssl_server_name\"; }}\n"
        )
    };
    let text = format!(
        "daemon off; master_process off; pid nginx.pid; error_log stderr;\nevents {{}}\n\
         http {{ access_log off;\n{} }}\n",
        servers.map(server).concat()
    );
    fs::write(folder.join("nginx.conf"), text).unwrap();
    let mut command = Command::new("nginx");
    command.arg("-p").arg(folder).arg("-c").arg(folder.join("nginx.conf")).arg("-e").arg("stderr");
    let mut nginx = Process::start_silent(&mut command);
    nginx.until_listening(&servers.map(|server| server.1), None);
    nginx
}

fn curl(address: SocketAddr, name: &str) -> String {
    let mut command = Command::new("curl");
    let resolve = format!("{name}:{}:{}", address.port(), address.ip());
    command.args(["-sk", "--max-time", "20", "--resolve", &resolve]);
    command.arg(format!("https://{name}:{}/", address.port()));
    let Output { stdout, .. } = command.output().unwrap();
    String::from_utf8(stdout).unwrap()
}

#[test]
fn real_clients_find_real_servers() {
    let ip = own_ip();
    let addresses = [free(ip), free(ip), free(ip)];
    let folder = Folder::new();
    let [rest, a, b] = addresses;
    let _nginx = nginx(folder.path(), [("rest", rest), ("a", a), ("b", b)]);
    let lbd = Lbd::start(&config(ip, addresses));
    let cases = [
        ("a.example", "a a.example"),
        ("A.Example", "a a.example"),
        ("b.example", "b b.example"),
        ("x.y.b.example", "b x.y.b.example"),
        ("c.example", "rest c.example"),
    ];
    for (name, answer) in cases {
        assert_eq!(curl(lbd.address, name), answer, "{name}");
    }
    // Without a name, which is no fault; openssl takes the end of its input as the end.
    let mut command = Command::new("openssl");
    command.args(["s_client", "-quiet", "-noservername", "-connect", &lbd.address.to_string()]);
    let mut openssl =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let request = b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n";
    openssl.stdin.as_mut().unwrap().write_all(request).unwrap();
    let output = openssl.wait_with_output().unwrap();
    assert!(String::from_utf8_lossy(&output.stdout).ends_with("\r\n\r\nrest "), "{output:?}");
    assert_eq!(lbd.refused("client_hello"), 0);
}

#[test]
fn a_hello_may_come_in_pieces_and_arrives_whole() {
    let ip = own_ip();
    let (rest, _rest_connections) = handed_over(ip);
    let (a, connections) = handed_over(ip);
    let lbd = Lbd::start(&config(ip, [rest.address, a.address, rest.address]));
    let hello = hello("a.example");
    // Byte for byte; and in records of five bytes of the hello each, with more behind it.
    let records: Vec<u8> = hello[5..]
        .chunks(5)
        .flat_map(|part| [&[22, 3, 1, 0, u8::try_from(part.len()).unwrap()][..], part].concat())
        .collect();
    for (bytes, piece) in [(hello.clone(), 1), ([records, b"and more".to_vec()].concat(), 7)] {
        let mut client = lbd.connect();
        for part in bytes.chunks(piece) {
            client.write_all(part).unwrap();
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        let mut target = next(&connections);
        let mut received = vec![0; bytes.len()];
        target.read_exact(&mut received).unwrap();
        assert_eq!(received, bytes, "nothing is lost and nothing is added");
        target.write_all(b"hi").unwrap();
        client.read_exact(&mut [0; 2]).unwrap();
    }
    assert_eq!(rest.accepted(), 0);
}

#[test]
fn what_is_no_hello_is_refused_counted_and_logged() {
    let ip = own_ip();
    let server = Server::echo((ip, 0).into());
    let mut config = config(ip, [server.address; 3]);
    config.service = format!("timeout = {{ header = \"500ms\" }}\n{RULES}");
    let lbd = Lbd::start(&config);
    let endless = [&[22, 3, 1, 0x40, 0, 1, 0, 0xff, 0xff][..], &[0; 20_000]].concat();
    let mut two_names = hello("a.example");
    two_names[0] = 21;
    let wrong: [&[u8]; 4] = [b"GET / HTTP/1.1\r\n\r\n", b"SSH-2.0-x\r\n", &endless, &two_names];
    for (count, bytes) in (1..).zip(wrong) {
        let mut client = lbd.connect();
        // It may be reset before everything is sent.
        drop(client.write_all(bytes));
        let end = end_of(&mut client).unwrap_err();
        assert!(matches!(end.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe), "{end}");
        eventually("it is counted", || lbd.refused("client_hello") == count);
    }
    lbd.says("does not begin with a TLS handshake");
    // Half a hello, and then nothing.
    let mut half = lbd.connect();
    half.write_all(&hello("a.example")[..20]).unwrap();
    assert_eq!(end_of(&mut half).unwrap_err().kind(), ErrorKind::ConnectionReset);
    assert_eq!((lbd.refused("header_timeout"), server.accepted()), (1, 0));
}

#[test]
fn a_proxy_in_front_may_send_its_header_first() {
    let ip = own_ip();
    let (rest, _rest_connections) = handed_over(ip);
    let (b, connections) = handed_over(ip);
    let mut config = config(ip, [rest.address, rest.address, b.address]);
    config.service = format!("accept_proxy = [\"127.0.0.0/8\"]\n{RULES}");
    config.group.push_str("send_proxy = \"v1\"\n");
    let lbd = Lbd::start(&config);
    let mut client = lbd.connect();
    let header = b"PROXY TCP4 198.51.100.7 203.0.113.10 51234 443\r\n";
    client.write_all(&[header, &hello("www.b.example")[..]].concat()).unwrap();
    let mut received = vec![0; header.len() + hello("www.b.example").len()];
    next(&connections).read_exact(&mut received).unwrap();
    assert_eq!(received, [header, &hello("www.b.example")[..]].concat());
}

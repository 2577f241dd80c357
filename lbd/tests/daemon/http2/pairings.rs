//! Each kind of client before each kind of target: curl and nghttp at one end, nginx and nghttpd at the other. What one pairing
//! can do, all can.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::http::tls::shop;
use crate::real::{Authority, Nghttpd, Nginx};
use crate::support::{Config, Lbd, free, metric, own_ip};

/// More than the windows of HTTP/2 and the buffers on the way have room for.
const LARGE_BYTES: u32 = 2_000_000;

/// What curl is told to speak.
struct Near {
    name: &'static str,
    arguments: &'static [&'static str],
    /// As curl tells it of the answer: HTTP/1.0 is answered in HTTP/1.1, too (RFC 9110, section 6.2).
    version: &'static str,
    /// Whether a body may come without its length.
    unmeasured: bool,
    /// What it prints of two requests with how many connections each has taken.
    twice: Option<&'static str>,
}

const KEPT: Option<&str> = Some("small\n1small\n0");

const OLDEST: Near = Near {
    name: "curl with HTTP/1.0",
    arguments: &["--http1.0"],
    version: "1.1",
    unmeasured: false,
    twice: Some("small\n1small\n1"),
};
const OLD: Near = Near {
    name: "curl with HTTP/1.1",
    arguments: &["--http1.1"],
    version: "1.1",
    unmeasured: true,
    twice: KEPT,
};
const CLEAR: [Near; 3] = [
    OLDEST,
    OLD,
    Near {
        name: "curl with HTTP/2",
        arguments: &["--http2-prior-knowledge"],
        version: "2",
        unmeasured: true,
        // Debian 12's curl (7.88.1) fails with the second one, at nginx as well.
        twice: None,
    },
];
const ENCRYPTED: [Near; 3] = [
    OLDEST,
    OLD,
    Near { name: "curl with HTTP/2", arguments: &["--http2"], version: "2", unmeasured: true, twice: KEPT },
];

/// A server.
struct Far {
    name: &'static str,
    address: SocketAddr,
    /// Keys of its group.
    group: String,
    /// The folder of its files.
    root: PathBuf,
    /// Whether it sends back what comes, where others keep what is put and say what was posted.
    echoes: bool,
    /// Whether it gets a body without a length in chunks, being one of HTTP/1.1.
    chunks: bool,
    /// Where a trailer stands behind an answer.
    trailed: &'static str,
}

impl Far {
    /// Whether it says 100 to those who wait for that, and no length where a trailer comes, so that HTTP/1.1 can have it, too. nginx does
    /// neither in HTTP/2.
    fn continues(&self) -> bool {
        self.chunks || self.echoes
    }
}

/// All servers; they end with what is returned beside them.
fn servers(authority: &Authority) -> (Vec<Far>, Nginx, Nghttpd) {
    let ip = own_ip();
    let [inner, old, new, old_tls, new_tls] = std::array::from_fn(|_| free(ip));
    let directives = authority.sign("target", "DNS:target.example", 2);
    let locations = format!(
        "location / {{ dav_methods PUT; client_max_body_size 100m; }} \
         location = /say {{ proxy_pass http://{inner}; proxy_set_header X-Body $request_body; \
           proxy_set_header X-Length \"$http_content_length\"; proxy_set_header X-Coding \"$http_transfer_encoding\"; }} \
         location = /trailed {{ add_trailer X-Last end; return 200 behind; }} \
         location = /busy {{ return 503 busy; }} location = /empty {{ return 204; }}"
    );
    let said = "$request_method $http_x_body $http_x_length $http_x_coding";
    let nginx = Nginx::start(
        &format!(
            "server {{ listen {inner}; return 200 \"{said}\"; }} server {{ listen {old}; {locations} }} \
             server {{ listen {new} http2; {locations} }} server {{ listen {old_tls} ssl; {directives} {locations} }} \
             server {{ listen {new_tls} ssl http2; {directives} {locations} }}"
        ),
        &[inner, old, new, old_tls, new_tls],
    );
    let nghttpd = Nghttpd::start(ip);
    let large: Vec<u8> = (0..LARGE_BYTES).map(|index| (index ^ (index >> 8)).to_le_bytes()[0]).collect();
    for root in [nginx.root(), nghttpd.root()] {
        fs::write(root.join("small"), "small\n").unwrap();
        fs::write(root.join("large"), &large).unwrap();
    }
    let tls = format!(
        "tls = {{ ca_file = \"{}\", server_name = \"target.example\" }}\n",
        authority.file().display()
    );
    let http2 = "protocol = \"http2\"\n";
    let of_nginx = |name, address, group: String, chunks| Far {
        name,
        address,
        group,
        root: nginx.root().to_owned(),
        echoes: false,
        chunks,
        trailed: "/trailed",
    };
    let all = vec![
        of_nginx("nginx with HTTP/1.1", old, String::new(), true),
        of_nginx("nginx with HTTP/2", new, http2.to_owned(), false),
        of_nginx("nginx with HTTP/1.1 and TLS", old_tls, tls.clone(), true),
        of_nginx("nginx with HTTP/2 and TLS", new_tls, [http2, &tls].concat(), false),
        Far {
            name: "nghttpd",
            address: nghttpd.address,
            group: http2.to_owned(),
            root: nghttpd.root().to_owned(),
            echoes: true,
            chunks: false,
            trailed: "/small",
        },
    ];
    (all, nginx, nghttpd)
}

/// A server with the daemon before it.
struct Site<'a> {
    far: &'a Far,
    lbd: Lbd,
    /// Who has signed the daemon's certificate, if it has one.
    authority: Option<&'a Authority>,
}

impl Site<'_> {
    fn scheme(&self) -> &'static str {
        if self.authority.is_some() { "https" } else { "http" }
    }

    /// What curl prints, which finds `input` on its standard input.
    fn curl(&self, near: &Near, input: Stdio, arguments: &[&str]) -> Vec<u8> {
        let mut command = Command::new("curl");
        command.args(["-sS", "--max-time", "20", "--connect-to", &format!("::{}", self.lbd.address)]);
        if let Some(authority) = self.authority {
            command.arg("--cacert").arg(authority.file());
        }
        command.args(near.arguments).args(arguments);
        output(command.stdin(input))
    }

    /// What nghttp prints of these paths.
    fn nghttp(&self, arguments: &[&str], paths: &[&str]) -> Vec<u8> {
        let mut command = Command::new("nghttp");
        command
            .args(["--timeout=20", "--no-verify-peer", "--header=:authority: shop.example"])
            .args(arguments);
        command.args(paths.iter().map(|path| format!("{}://{}{path}", self.scheme(), self.lbd.address)));
        output(&mut command)
    }

    /// What a server says of a request with the body "hello" that has come with or without its length.
    fn said(&self, measured: bool) -> &'static str {
        match (self.far.echoes, measured, self.far.chunks) {
            (true, ..) => "hello",
            (false, true, _) => "POST hello 5 ",
            (false, false, true) => "POST hello  chunked",
            (false, false, false) => "POST hello  ",
        }
    }

    /// Whether a large body has come to the server as it is: it has sent it back, or kept it, which it does no more.
    fn has_taken(&self, sent: &Path, answer: &[u8]) -> bool {
        let sent = fs::read(sent).unwrap();
        if self.far.echoes {
            return answer == sent;
        }
        let kept = self.far.root.join("up");
        let bytes = fs::read(&kept).unwrap_or_default();
        fs::remove_file(kept).ok();
        bytes == sent
    }

    /// All that curl does.
    fn curl_does_all(&self, near: &Near) {
        let what = format!("{} at {}, {}", near.name, self.far.name, self.scheme());
        let url = |path: &str| format!("{}://shop.example{path}", self.scheme());
        let curl = |arguments: &[&str]| self.curl(near, Stdio::null(), arguments);
        let text = |arguments: &[&str]| String::from_utf8_lossy(&curl(arguments)).into_owned();
        let code =
            |arguments: &[&str]| text(&[&["-o", "/dev/null", "-w", "%{http_code}"], arguments].concat());
        let (small, said) = (url("/small"), url("/say"));
        assert_eq!(text(&["-w", "%{http_version}", &small]), format!("small\n{}", near.version), "{what}");
        assert_eq!(
            text(&["-I", "-o", "/dev/null", "-w", "%{http_code} %{size_download}", &small]),
            "200 0",
            "{what}"
        );
        assert_eq!(code(&[&url("/none")]), "404", "{what}");
        if !self.far.echoes {
            assert_eq!(text(&["-w", " %{http_code}", &url("/busy")]), "busy 503", "{what}");
            assert_eq!(text(&["-w", "%{http_code}", &url("/empty")]), "204", "{what}");
        }
        if let Some(twice) = near.twice {
            assert_eq!(text(&["-w", "%{num_connects}", &small, &small]), twice, "{what}");
        }
        // Large bodies both ways, with their length and without.
        let large = self.far.root.join("large");
        assert!(curl(&[&url("/large")]) == fs::read(&large).unwrap(), "{what}");
        let up = url("/up");
        let answer = curl(&["-H", "Expect:", "-T", large.to_str().unwrap(), &up]);
        assert!(self.has_taken(&large, &answer), "{what}");
        if near.unmeasured {
            let input = Stdio::from(File::open(&large).unwrap());
            let answer = self.curl(near, input, &["-H", "Expect:", "-T", "-", &up]);
            assert!(self.has_taken(&large, &answer), "{what}");
            let chunked = text(&["-H", "Transfer-Encoding: chunked", "-d", "hello", &said]);
            assert_eq!(chunked, self.said(false), "{what}");
        }
        assert_eq!(text(&["-d", "hello", &said]), self.said(true), "{what}");
        // curl tells of trailers and interim answers in HTTP/1.1 only.
        if near.name == OLD.name {
            let head = self.lbd.folder.path().join("head");
            text(&["-D", head.to_str().unwrap(), &url(self.far.trailed)]);
            let head = fs::read_to_string(head).unwrap().to_lowercase();
            assert_eq!(head.contains("x-last: end"), self.far.continues(), "{what}: {head}");
            if self.far.continues() {
                let answer = text(&["-i", "-H", "Expect: 100-continue", "-d", "hello", &said]);
                assert!(answer.starts_with("HTTP/1.1 100 "), "{what}: {answer}");
                assert!(answer.contains(self.said(true)), "{what}: {answer}");
            }
        }
    }

    /// All that nghttp does.
    fn nghttp_does_all(&self) {
        let what = format!("nghttp at {}, {}", self.far.name, self.scheme());
        let text = |arguments: &[&str], path: &str| {
            String::from_utf8_lossy(&self.nghttp(arguments, &[path])).into_owned()
        };
        // On one connection; what is asked for twice is asked for once.
        assert_eq!(self.nghttp(&[], &["/small", "/small?2"]), b"small\nsmall\n", "{what}");
        let head = text(&["-nv", "--header=:method: HEAD"], "/small");
        assert!(head.contains(":status: 200") && !head.contains("recv DATA frame"), "{what}: {head}");
        assert!(text(&["-nv"], "/none").contains(":status: 404"), "{what}");
        let trailed = text(&["-nv"], self.far.trailed);
        let (_, behind) = trailed.split_once("recv DATA frame").expect("a body");
        assert!(behind.contains(" x-last: end"), "{what}: {trailed}");
        let large = self.far.root.join("large");
        assert!(self.nghttp(&[], &["/large"]) == fs::read(&large).unwrap(), "{what}");
        let sent = large.to_str().unwrap();
        for more in [&["--header=:method: PUT"][..], &["--header=:method: PUT", "--no-content-length"]] {
            let answer = self.nghttp(&[&["-d", sent][..], more].concat(), &["/up"]);
            assert!(self.has_taken(&large, &answer), "{what} with {more:?}");
        }
        let hello = self.lbd.folder.path().join("hello");
        fs::write(&hello, "hello").unwrap();
        let hello = hello.to_str().unwrap();
        assert_eq!(text(&["-d", hello], "/say"), self.said(true), "{what}");
        let unmeasured = ["-d", hello, "--no-content-length"];
        assert_eq!(text(&unmeasured, "/say"), self.said(false), "{what}");
        // A trailer of a request is nothing to a server that does not look for it; nginx ends a connection of HTTP/2 on which one comes.
        if self.far.continues() {
            let trailed = [&unmeasured[..], &["--trailer=x-mine: last"]].concat();
            assert_eq!(text(&trailed, "/say"), self.said(false), "{what}");
        }
        if self.far.continues() {
            let answer = text(&["-v", "-d", hello, "--expect-continue"], "/say");
            assert!(answer.contains(":status: 100") && answer.contains(self.said(true)), "{what}: {answer}");
        }
    }
}

/// What a program prints that ends well.
fn output(command: &mut Command) -> Vec<u8> {
    let output = command.output();
    let output = output.unwrap_or_else(|error| panic!("{command:?}: {error}; run scripts/setup test"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

/// Has each client do all before each server, with the daemon as `config` says.
fn all_pairings(
    authority: &Authority,
    near: &[Near],
    encrypted: bool,
    config: impl Fn(SocketAddr) -> Config,
) {
    let (servers, _nginx, _nghttpd) = servers(authority);
    for far in &servers {
        let mut config = config(far.address);
        config.group.clone_from(&far.group);
        let site = Site { far, lbd: Lbd::start(&config), authority: encrypted.then_some(authority) };
        near.iter().for_each(|near| site.curl_does_all(near));
        site.nghttp_does_all();
        let expelled = metric(&site.lbd, "tandem_lbd_service_http2_connections_expelled_total");
        assert_eq!(expelled.values().sum::<u64>(), 0, "{}", far.name);
        let malformed = metric(&site.lbd, "tandem_lbd_service_http_requests_malformed_total");
        assert_eq!(malformed.values().sum::<u64>(), 0, "{}", far.name);
    }
}

#[test]
fn each_client_in_clear_text_goes_with_each_server() {
    let (ip, authority) = (own_ip(), Authority::new());
    all_pairings(&authority, &CLEAR, false, |target| super::config(ip, &[target]));
}

#[test]
fn each_client_with_tls_goes_with_each_server() {
    let (ip, authority) = (own_ip(), shop());
    let bundle = authority.bundle("shop");
    all_pairings(&authority, &ENCRYPTED, true, |target| crate::http::tls::config(ip, &[target], &[&bundle]));
}

/// What nghttp sends behind a body comes to a target behind the body, and so it does the other way, but for what may not be there.
#[test]
fn trailers_pass_both_ways() {
    let ip = own_ip();
    let target = crate::http::Target::with(ip, |_, stream| {
        let head = "HTTP/1.1 200 OK\r\nConnection: X-Hop\r\nTransfer-Encoding: chunked\r\n\r\n";
        let trailers =
            "X-Last: end\r\nX-Hop: 1\r\nX-Debug: 1\r\nSet-Cookie: a=b\r\nContent-Length: 3\r\nTE: gzip\r\n";
        crate::http::write(stream, &format!("{head}5\r\ntaken\r\n0\r\n{trailers}\r\n"))
    });
    let mut config = super::config(ip, &[target.address]);
    config.service += "response_headers = { remove = [\"X-Debug\"] }\n";
    let lbd = Lbd::start(&config);
    let file = lbd.folder.path().join("hello");
    fs::write(&file, "hello").unwrap();
    let mut command = Command::new("nghttp");
    command.args(["-v", "--timeout=20", "--no-content-length", "--trailer=x-mine: last", "-d"]).arg(file);
    let said = output(command.arg(format!("http://{}/", lbd.address)));
    let said = String::from_utf8_lossy(&said);
    let (_, behind) = said.split_once("recv DATA frame").expect("a body");
    assert!(said.contains("taken") && behind.contains(" x-last: end"), "{said}");
    for name in ["x-hop", "x-debug", "set-cookie", "content-length", " te: "] {
        assert!(!behind.contains(name), "{name}: {said}");
    }
    let seen = target.last();
    assert_eq!((seen.text(), seen.trailers.to_lowercase().as_str()), ("hello", "x-mine: last"));
}

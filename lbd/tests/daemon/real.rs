//! Real servers: nginx, nghttpd, a gRPC server, dnsmasq; certificates made by openssl; and pebble, an authority of whom some are ordered. `scripts/setup test` installs them.

use std::fs;
use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::support::{Folder, free};

/// How long another program may take to start: it is not what is tested, and the machine may be busy.
const START_MAX: Duration = Duration::from_secs(60);

/// Another program, killed when dropped.
pub(crate) struct Process {
    /// Its process.
    pub(crate) child: Child,
    /// Its name, for messages.
    program: String,
}

impl Process {
    pub(crate) fn start(command: &mut Command) -> Self {
        let path = format!("{}:/usr/local/sbin:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default());
        let child = command.env("PATH", path).spawn();
        let child = child.unwrap_or_else(|error| panic!("{command:?}: {error}; run scripts/setup test"));
        Self { child, program: command.get_program().to_string_lossy().into_owned() }
    }

    /// The same of one that is given nothing to read, and whose words nobody wants.
    pub(crate) fn start_silent(command: &mut Command) -> Self {
        Self::start(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()))
    }

    /// Waits until it listens on all of these addresses. If it ends before, that is over at once, and its log may say why.
    pub(crate) fn until_listening(&mut self, addresses: &[SocketAddr], log: Option<&Path>) {
        let end = Instant::now() + START_MAX;
        for &address in addresses {
            while !listens(address) {
                let ended = self.child.try_wait().unwrap();
                assert!(
                    ended.is_none() && Instant::now() < end,
                    "{} does not listen on {address}: {}; {}",
                    self.program,
                    ended.map_or_else(|| "it runs".to_owned(), |status| status.to_string()),
                    log.map_or_else(String::new, |log| fs::read_to_string(log).unwrap_or_default())
                );
                std::thread::sleep(Duration::from_millis(5));
            }
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Whether something listens there.
fn listens(address: SocketAddr) -> bool {
    TcpStream::connect(address).is_ok()
}

/// A certification authority in a folder.
pub(crate) struct Authority {
    folder: Folder,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let authority = Self { folder: Folder::new() };
        let name = authority.folder.path().file_name().unwrap().to_string_lossy();
        authority.openssl(&format!("req -x509 {KEY} -keyout ca.key -out ca.pem -subj /CN={name} -days 2"));
        authority
    }

    /// The file with its certificate.
    pub(crate) fn file(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    /// A certificate for `names` (as `DNS:shop.example,IP:127.0.0.1`) that is valid for `days`, or has expired with -1. Answers nginx's
    /// directives for it.
    pub(crate) fn sign(&self, name: &str, names: &str, days: i32) -> String {
        self.sign_with(KEY, name, names, days)
    }

    /// The same with a key of another kind, of which `key` are openssl's words.
    pub(crate) fn sign_with(&self, key: &str, name: &str, names: &str, days: i32) -> String {
        self.sign_extended(key, name, names, days, "")
    }

    /// The same with further extensions, as openssl has them in its files, each with the end of its line.
    pub(crate) fn sign_extended(
        &self,
        key: &str,
        name: &str,
        names: &str,
        days: i32,
        extensions: &str,
    ) -> String {
        let path = |suffix: &str| self.path(&format!("{name}.{suffix}"));
        let text = format!("subjectAltName={names}\nbasicConstraints=critical,CA:FALSE\n{extensions}");
        fs::write(path("ext"), text).unwrap();
        self.openssl(&format!("req {key} -keyout {name}.key -out {name}.csr -subj /CN={name}"));
        self.openssl(&format!(
            "x509 -req -in {name}.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days {days} -extfile {name}.ext -out {name}.pem"
        ));
        format!("ssl_certificate {}; ssl_certificate_key {};", path("pem").display(), path("key").display())
    }

    /// A certificate like those of [`Self::sign`] that is good for so many seconds from now on.
    pub(crate) fn sign_for_seconds(&self, name: &str, seconds: i64) {
        let at = |seconds: i64| seconds_from_now(seconds, "%y%m%d%H%M%SZ");
        let config = "[ca]\ndefault_ca = own\n[own]\ndatabase = index.txt\nserial = numbers\nnew_certs_dir = .\n\
                      certificate = ca.pem\nprivate_key = ca.key\ndefault_md = sha256\npolicy = any\n\
                      x509_extensions = leaf\n[any]\ncommonName = supplied\n[leaf]\nbasicConstraints = CA:FALSE\n";
        fs::write(self.path("ca.cnf"), config).unwrap();
        fs::write(self.path("index.txt"), "").unwrap();
        fs::write(self.path("numbers"), "77\n").unwrap();
        self.openssl(&format!("req {KEY} -keyout {name}.key -out {name}.csr -subj /CN={name}"));
        let (begin, end) = (at(-60), at(seconds));
        self.openssl(&format!(
            "ca -batch -notext -config ca.cnf -in {name}.csr -out {name}.pem -startdate {begin} -enddate {end}"
        ));
    }

    /// Certificate and key of a name that was signed, in one file.
    pub(crate) fn bundle(&self, name: &str) -> PathBuf {
        let read = |suffix: &str| fs::read(self.path(&format!("{name}.{suffix}"))).unwrap();
        let path = self.path(&format!("{name}.bundle.pem"));
        fs::write(&path, [read("pem"), read("key")].concat()).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        path
    }

    /// A file in its folder.
    pub(crate) fn path(&self, file: &str) -> PathBuf {
        self.folder.path().join(file)
    }

    /// Says of a certificate that was signed that it is good, or that it is revoked (OCSP), which holds for so many days from now on; answers
    /// the file with that, in DER, which is `name.ocsp` each time.
    pub(crate) fn vouch(&self, name: &str, good: bool, days: u32) -> PathBuf {
        let serial = self.said(&format!("x509 -noout -serial -in {name}.pem"));
        let serial = serial.trim().strip_prefix("serial=").expect("its number");
        let (state, since) = if good { ("V", "") } else { ("R", "250101000000Z") };
        let line = format!("{state}\t491231235959Z\t{since}\t{serial}\tunknown\t/CN={name}\n");
        fs::write(self.path(&format!("{name}.states")), line).unwrap();
        self.openssl(&format!(
            "ocsp -index {name}.states -CA ca.pem -rsigner ca.pem -rkey ca.key -issuer ca.pem -cert {name}.pem -no_nonce -ndays {days} \
             -respout {name}.ocsp"
        ));
        self.path(&format!("{name}.ocsp"))
    }

    /// A certificate that was signed, and the authority's own behind it, in one file.
    pub(crate) fn chain(&self, name: &str) -> PathBuf {
        let read = |file: &str| fs::read(self.path(file)).unwrap();
        let path = self.path(&format!("{name}.chain.pem"));
        fs::write(&path, [read(&format!("{name}.pem")), read("ca.pem")].concat()).unwrap();
        path
    }

    /// Runs openssl in its folder.
    pub(crate) fn openssl(&self, arguments: &str) {
        self.said(arguments);
    }

    /// The same; answers what it prints.
    pub(crate) fn said(&self, arguments: &str) -> String {
        let mut command = Command::new("openssl");
        command.args(arguments.split(' ')).current_dir(self.folder.path());
        let output = command.output().expect("openssl runs");
        assert!(output.status.success(), "{arguments}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}

/// The time in so many seconds, as `date` writes it in this format.
pub(crate) fn seconds_from_now(seconds: i64, format: &str) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let at = format!("@{}", now.checked_add_signed(seconds).unwrap());
    let output = Command::new("date").args(["-u", "-d", &at, &format!("+{format}")]).output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// openssl's words for a new RSA key.
pub(crate) const RSA_KEY: &str = "-newkey rsa:2048 -nodes";

/// The same for a new key on the curve P-256.
pub(crate) const KEY: &str = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes";

/// An nginx.
pub(crate) struct Nginx {
    _process: Process,
    folder: Folder,
}

impl Nginx {
    /// Starts it with these server blocks, and waits until it listens on all of `listen`.
    pub(crate) fn start(servers: &str, listen: &[SocketAddr]) -> Self {
        let folder = Folder::new();
        let path = folder.path().display();
        let temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];
        let temporary: String =
            temporary.iter().map(|kind| format!("{kind}_temp_path {path}/{kind};\n")).collect();
        let text = format!(
            "daemon off; master_process off; pid {path}/pid; error_log {path}/errors;\n\
             events {{}}\nhttp {{\naccess_log off; root {path}; default_type text/plain;\n{temporary}{servers}\n}}\n"
        );
        fs::write(folder.path().join("nginx.conf"), text).unwrap();
        let config = folder.path().join("nginx.conf");
        let mut command = Command::new("nginx");
        let errors = folder.path().join("errors");
        command.arg("-c").arg(config).arg("-e").arg(&errors);
        let mut process = Process::start(&mut command);
        process.until_listening(listen, Some(&errors));
        Self { _process: process, folder }
    }

    /// The folder that it serves.
    pub(crate) fn root(&self) -> &Path {
        self.folder.path()
    }
}

/// nghttp2's server: it speaks HTTP/2 in clear text, sends back what is sent to it, and says no length but a trailer behind each body.
pub(crate) struct Nghttpd {
    /// Where it listens.
    pub(crate) address: SocketAddr,
    _process: Process,
    folder: Folder,
}

impl Nghttpd {
    pub(crate) fn start(ip: Ipv4Addr) -> Self {
        let (folder, address) = (Folder::new(), free(ip));
        let mut command = Command::new("nghttpd");
        command.args(["--no-tls", "--echo-upload", "--no-content-length", "--trailer=x-last: end"]);
        command.arg(format!("--address={ip}")).arg("--htdocs").arg(folder.path());
        command.arg(address.port().to_string()).stdout(Stdio::null());
        let mut process = Process::start(&mut command);
        process.until_listening(&[address], None);
        Self { address, _process: process, folder }
    }

    /// The folder that it serves.
    pub(crate) fn root(&self) -> &Path {
        self.folder.path()
    }
}

/// gRPC's own server (Debian's python3-grpcio), with the health service on it. The service's two messages are written by hand here too, because
/// Debian has no package of their code: `b"\x0a\x04shop"` asks for "shop", `b"\x08\x01"` says that it serves.
const GRPC_SERVER: &str = r#"
import sys, grpc
from concurrent import futures

states = {"": 1}

def check(request, context):
    service = request[2:].decode()
    if service not in states:
        context.abort(grpc.StatusCode.NOT_FOUND, "unknown service")
    return bytes([8, states[service]]) if states[service] else b""

handler = grpc.unary_unary_rpc_method_handler(check)
server = grpc.server(futures.ThreadPoolExecutor(max_workers=2), options=[("grpc.so_reuseport", 0)])
server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("grpc.health.v1.Health", {"Check": handler})])
if len(sys.argv) == 2:
    port = server.add_insecure_port(sys.argv[1])
else:
    key, certificate = (open(path, "rb").read() for path in sys.argv[2:])
    port = server.add_secure_port(sys.argv[1], grpc.ssl_server_credentials([(key, certificate)]))
if port == 0:
    sys.exit("cannot listen")
server.start()
for line in sys.stdin:
    service, state = line.rsplit(" ", 1)
    states[service] = int(state)
"#;

/// A gRPC server.
pub(crate) struct Grpc {
    /// Where it listens.
    pub(crate) address: SocketAddr,
    input: ChildStdin,
    _process: Process,
}

impl Grpc {
    pub(crate) fn start(ip: Ipv4Addr) -> Self {
        Self::start_with(ip, &[])
    }

    /// With TLS, and the certificate of this name.
    pub(crate) fn start_tls(ip: Ipv4Addr, authority: &Authority, name: &str) -> Self {
        let path = |suffix: &str| authority.folder.path().join(format!("{name}.{suffix}"));
        Self::start_with(ip, &[path("key"), path("pem")])
    }

    fn start_with(ip: Ipv4Addr, files: &[PathBuf]) -> Self {
        let address = free(ip);
        // Debian's interpreter is the one that has Debian's modules.
        let mut command = Command::new("/usr/bin/python3");
        command.args(["-c", GRPC_SERVER, &address.to_string()]).args(files).stdin(Stdio::piped());
        // That clients turn its certificate down is no news.
        command.env("GRPC_VERBOSITY", "NONE");
        let mut process = Process::start(&mut command);
        let input = process.child.stdin.take().unwrap();
        process.until_listening(&[address], None);
        Self { address, input, _process: process }
    }

    /// Has it say so of a service: 1 for SERVING, 2 for NOT_SERVING.
    pub(crate) fn set(&mut self, service: &str, state: u8) {
        writeln!(self.input, "{service} {state}").unwrap();
    }
}

/// A DNS server that knows `shop.test`.
pub(crate) struct Dns {
    /// Where it listens.
    pub(crate) address: SocketAddr,
    _process: Process,
}

impl Dns {
    pub(crate) fn start(ip: Ipv4Addr) -> Self {
        Self::leading_to(ip, Ipv4Addr::new(192, 0, 2, 1))
    }

    /// The name, and all below it, lead to this address.
    pub(crate) fn leading_to(ip: Ipv4Addr, to: Ipv4Addr) -> Self {
        let address = free(ip);
        let mut command = Command::new("dnsmasq");
        command
            .args([
                "--keep-in-foreground",
                "--conf-file=/dev/null",
                "--no-resolv",
                "--no-hosts",
                "--user=root",
            ])
            .args(["--bind-interfaces", "--pid-file="])
            .arg(format!("--address=/shop.test/{to}"))
            .args([format!("--port={}", address.port()), format!("--listen-address={ip}")])
            .stderr(Stdio::null());
        let mut process = Process::start(&mut command);
        process.until_listening(&[address], None);
        Self { address, _process: process }
    }
}

/// An authority that certificates are ordered from (ACME), which asks the names that it is to sign.
pub(crate) struct Pebble {
    management: SocketAddr,
    _folder: Folder,
    ca: PathBuf,
    _process: Process,
}

impl Pebble {
    /// Starts it at `address`, where a certificate that `authority` signs is shown. It finds names by `dns`, asks them on `http_port`, and
    /// what it signs is good for so many seconds.
    pub(crate) fn start(
        authority: &Authority,
        address: SocketAddr,
        http_port: u16,
        dns: SocketAddr,
        seconds: u64,
    ) -> Self {
        let folder = Folder::new();
        let IpAddr::V4(ip) = address.ip() else { panic!("an address of IPv4") };
        let management = free(ip);
        authority.sign("pebble", &format!("IP:{ip}"), 2);
        let config = serde_json::json!({ "pebble": {
            "listenAddress": address.to_string(),
            "managementListenAddress": management.to_string(),
            "certificate": authority.path("pebble.pem"),
            "privateKey": authority.path("pebble.key"),
            "httpPort": http_port,
            "tlsPort": free(ip).port(),
            "ocspResponderURL": "",
            "externalAccountBindingRequired": false,
            "certificateValidityPeriod": seconds,
        }});
        let file = folder.path().join("pebble.json");
        fs::write(&file, config.to_string()).unwrap();
        let mut command = Command::new("pebble");
        command.arg("-config").arg(file).args(["-dnsserver", &dns.to_string()]);
        // It asks at once, and each time.
        command.env("PEBBLE_VA_NOSLEEP", "1").env("PEBBLE_AUTHZREUSE", "0");
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let mut process = Process::start(&mut command);
        process.until_listening(&[address, management], None);
        Self { management, _folder: folder, ca: authority.file(), _process: process }
    }

    /// The file with the certificate that all that it signs leads to. It stays when the server is gone.
    pub(crate) fn root(&self) -> PathBuf {
        let file = self.ca.with_file_name(format!("root-{}.pem", self.management.port()));
        let mut command = Command::new("curl");
        command.args(["-sS", "--fail", "--noproxy", "*", "--cacert"]).arg(&self.ca).arg("-o").arg(&file);
        let output = command.arg(format!("https://{}/roots/0", self.management)).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        file
    }
}

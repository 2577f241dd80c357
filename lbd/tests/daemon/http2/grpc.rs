//! gRPC through the proxy: each kind of call, what ends them, and a target that does not speak it.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use super::config;
use crate::http::tls::shop;
use crate::real::Process;
use crate::support::{Config, Lbd, eventually, free, own_ip};

/// A server with a method of each kind; messages are bytes.
const SERVER: &str = r#"
import sys, time, grpc
from concurrent import futures

def unary(request, context):
    context.send_initial_metadata((("x-initial", "1"),))
    large = dict(context.invocation_metadata()).get("x-large", "")
    context.set_trailing_metadata((("x-last", "2"), ("x-raw-bin", b"\0\xff"), ("x-large", large)))
    return b"<" + request + b">"

def stream_out(request, context):
    for index in range(int(request)):
        yield b"%d" % index * 1000

def stream_in(requests, context):
    return b"%d" % sum(len(request) for request in requests)

def both(requests, context):
    for request in requests:
        yield b"<" + request + b">"

def fails(request, context):
    context.abort(grpc.StatusCode.FAILED_PRECONDITION, "not so: \u00e9")

def waits(request, context):
    ended = []
    context.add_callback(lambda: (print("over", flush=True)))
    print("waiting", flush=True)
    while context.is_active():
        time.sleep(0.01)
    return b""

def breaks(request, context):
    for index in range(3):
        yield b"%d" % index
    context.set_trailing_metadata((("x-left", "4"),))
    context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "no more")

def endless(request, context):
    context.add_callback(lambda: print("left", flush=True))
    while context.is_active():
        yield b"z" * 1000
        time.sleep(0.001)

def refuses(requests, context):
    next(requests)
    context.abort(grpc.StatusCode.PERMISSION_DENIED, "not you")

handlers = {
    "Unary": grpc.unary_unary_rpc_method_handler(unary),
    "Out": grpc.unary_stream_rpc_method_handler(stream_out),
    "In": grpc.stream_unary_rpc_method_handler(stream_in),
    "Both": grpc.stream_stream_rpc_method_handler(both),
    "Fails": grpc.unary_unary_rpc_method_handler(fails),
    "Waits": grpc.unary_unary_rpc_method_handler(waits),
    "Breaks": grpc.unary_stream_rpc_method_handler(breaks),
    "Endless": grpc.unary_stream_rpc_method_handler(endless),
    "RefusesOne": grpc.stream_unary_rpc_method_handler(refuses),
    "RefusesBoth": grpc.stream_stream_rpc_method_handler(refuses),
}
server = grpc.server(futures.ThreadPoolExecutor(max_workers=16), options=[("grpc.so_reuseport", 0)])
server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("test.Echo", handlers)])
if len(sys.argv) > 2:
    key, chain = (open(name, "rb").read() for name in sys.argv[2:])
    port = server.add_secure_port(sys.argv[1], grpc.ssl_server_credentials([(key, chain)]))
else:
    port = server.add_insecure_port(sys.argv[1])
if port == 0:
    sys.exit("cannot listen")
server.start()
sys.stdin.read()
"#;

/// A client that makes all kinds of calls; it ends well if each comes back as it should.
const CLIENT: &str = r#"
import sys, threading, queue, grpc

options = [("grpc.enable_retries", 0)]
if len(sys.argv) > 2:
    trusted = grpc.ssl_channel_credentials(open(sys.argv[2], "rb").read())
    options.append(("grpc.ssl_target_name_override", "shop.example"))
    channel = grpc.secure_channel(sys.argv[1], trusted, options=options)
else:
    channel = grpc.insecure_channel(sys.argv[1], options=options)
call = lambda kind, name: getattr(channel, kind)("/test.Echo/" + name)

metadata = (("x-mine", "3"), ("x-large", "v" * 4000))
answer, what = call("unary_unary", "Unary").with_call(b"hello", timeout=20, metadata=metadata)
assert answer == b"<hello>", answer
assert ("x-initial", "1") in [tuple(it) for it in what.initial_metadata()], what.initial_metadata()
trailing = [tuple(it) for it in what.trailing_metadata()]
assert ("x-last", "2") in trailing and ("x-raw-bin", b"\0\xff") in trailing, trailing
assert ("x-large", "v" * 4000) in trailing, trailing

large = b"x" * 3_000_000
assert call("unary_unary", "Unary")(large, timeout=20) == b"<" + large + b">"

got = list(call("unary_stream", "Out")(b"500", timeout=20))
assert got == [b"%d" % index * 1000 for index in range(500)], len(got)

sent = [b"y" * 10_000 for _ in range(300)]
assert call("stream_unary", "In")(iter(sent), timeout=20) == b"3000000"

# Each message is answered before the next one is sent.
messages = queue.Queue()
answers = call("stream_stream", "Both")(iter(messages.get, None), timeout=20)
for index in range(100):
    messages.put(b"%d" % index)
    assert next(answers) == b"<%d>" % index
messages.put(None)
assert list(answers) == []

try:
    call("unary_unary", "Fails")(b"", timeout=20)
    sys.exit("it did not fail")
except grpc.RpcError as error:
    assert error.code() == grpc.StatusCode.FAILED_PRECONDITION, error
    assert error.details() == "not so: \u00e9", error

try:
    call("unary_unary", "None")(b"", timeout=20)
    sys.exit("there is no such method")
except grpc.RpcError as error:
    assert error.code() == grpc.StatusCode.UNIMPLEMENTED, error

future = call("unary_unary", "Waits").future(b"", timeout=20)
print("asked", flush=True)
sys.stdin.readline()
future.cancel()
sys.stdin.readline()

try:
    call("unary_unary", "Waits")(b"", timeout=2)
    sys.exit("it has no end")
except grpc.RpcError as error:
    assert error.code() == grpc.StatusCode.DEADLINE_EXCEEDED, error

# What came before an error is not lost, and what comes with it is told.
parts = []
try:
    for part in call("unary_stream", "Breaks")(b"", timeout=20):
        parts.append(part)
    sys.exit("it did not break")
except grpc.RpcError as error:
    assert parts == [b"0", b"1", b"2"], parts
    assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED and error.details() == "no more", error
    assert ("x-left", "4") in [tuple(it) for it in error.trailing_metadata()], error

# An end that comes while there is still more to be sent.
for kind, name in [("stream_unary", "RefusesOne"), ("stream_stream", "RefusesBoth")]:
    try:
        answers = call(kind, name)(iter([b"w" * 10_000] * 300), timeout=20)
        list(answers)
        sys.exit("it was not refused")
    except grpc.RpcError as error:
        assert error.code() == grpc.StatusCode.PERMISSION_DENIED and error.details() == "not you", error

endless = call("unary_stream", "Endless")(b"", timeout=20)
assert [next(endless) for _ in range(100)] == [b"z" * 1000] * 100
endless.cancel()

def many(results):
    for index in range(50):
        message = b"%d" % index
        results.append(call("unary_unary", "Unary")(message, timeout=20) == b"<" + message + b">")

results = []
threads = [threading.Thread(target=many, args=(results,)) for _ in range(8)]
[it.start() for it in threads]
[it.join() for it in threads]
assert len(results) == 400 and all(results), len(results)
sys.stdin.readline()
"#;

struct Python(Process);

impl Python {
    /// Debian's interpreter is the one that has Debian's modules.
    fn start(script: &str, address: SocketAddr, files: &[PathBuf]) -> Self {
        let mut command = Command::new("/usr/bin/python3");
        command.args(["-c", script, &address.to_string()]).args(files);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        Self(Process::start(&mut command))
    }

    /// Waits for a line.
    fn line(&mut self) -> String {
        use std::io::Read;
        let mut line = Vec::new();
        let output = self.0.child.stdout.as_mut().unwrap();
        let mut byte = [0];
        while output.read(&mut byte).unwrap() == 1 && byte[0] != b'\n' {
            line.push(byte[0]);
        }
        String::from_utf8(line).unwrap()
    }

    fn go_on(&mut self) {
        use std::io::Write;
        writeln!(self.0.child.stdin.as_mut().unwrap()).unwrap();
    }
}

/// Makes each kind of call with these files for the server and for the client.
fn every_kind_of_call(address: SocketAddr, config: &Config, server: &[PathBuf], client: &[PathBuf]) {
    let mut server = Python::start(SERVER, address, server);
    server.0.until_listening(&[address], None);
    let lbd = Lbd::start(config);
    eventually("it is healthy", || lbd.health(0) == "healthy");
    let mut client = Python::start(CLIENT, lbd.address, client);
    assert_eq!(client.line(), "asked");
    assert_eq!(server.line(), "waiting");
    // A call that is cancelled is cancelled at the target.
    client.go_on();
    assert_eq!(server.line(), "over");
    // So is one whose time is over, and one that has been answered in part.
    client.go_on();
    assert_eq!([server.line(), server.line(), server.line()], ["waiting", "over", "left"]);
    client.go_on();
    let status = client.0.child.wait().unwrap();
    assert!(status.success(), "{status}");
}

const GROUP: &str = "protocol = \"http2\"\nhealth = { tcp = true, interval = \"1s\" }\n";

#[test]
fn every_kind_of_call_passes() {
    let ip = own_ip();
    let address = free(ip);
    let mut config = config(ip, &[address]);
    config.group = GROUP.to_owned();
    every_kind_of_call(address, &config, &[], &[]);
}

#[test]
fn every_kind_of_call_passes_with_tls_on_both_sides() {
    let ip = own_ip();
    let (address, authority) = (free(ip), shop());
    let mut config = crate::http::tls::config(ip, &[address], &[&authority.bundle("shop")]);
    let ca = authority.file();
    let tls = format!("tls = {{ ca_file = \"{}\", server_name = \"shop.example\" }}\n", ca.display());
    config.group = [GROUP, &tls].concat();
    let keys = [authority.path("shop.key"), authority.path("shop.pem")];
    every_kind_of_call(address, &config, &keys, &[ca]);
}

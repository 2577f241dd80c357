# WebSockets of programs that others have written: wsproto's messages and handshake, and extended CONNECT (RFC 8441) by h2.
#
#   websockets.py serve1|serve2 ADDRESS        sends back what comes, over HTTP/1 or HTTP/2
#   websockets.py ask1|ask2 ADDRESS [CA_FILE]  says a little of everything, and "done" if all came back; with TLS if there is a file
import socket, ssl, sys, threading
import h2.config, h2.connection, h2.events, h2.settings
from wsproto import ConnectionType, WSConnection
from wsproto.connection import Connection
from wsproto.events import AcceptConnection, BytesMessage, CloseConnection, Ping, Pong, Request, TextMessage

class Streams:
    """HTTP/2 on a socket; what has come of each stream is kept until it is asked for."""

    def __init__(self, sock, client):
        self.sock, self.heads, self.data, self.ended = sock, {}, {}, set()
        config = h2.config.H2Configuration(client_side=client, header_encoding="utf-8")
        self.conn = h2.connection.H2Connection(config)
        if not client:
            values = {h2.settings.SettingCodes.ENABLE_CONNECT_PROTOCOL: 1}
            self.conn.local_settings = h2.settings.Settings(client=False, initial_values=values)
        self.conn.initiate_connection()
        self.flush()

    def flush(self):
        self.sock.sendall(self.conn.data_to_send())

    def pump(self):
        data = self.sock.recv(65536)
        if not data:
            raise EOFError
        for event in self.conn.receive_data(data):
            if isinstance(event, (h2.events.RequestReceived, h2.events.ResponseReceived)):
                self.heads[event.stream_id] = dict(event.headers)
                self.data[event.stream_id] = b""
            elif isinstance(event, h2.events.DataReceived):
                self.data[event.stream_id] += event.data
                self.conn.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            elif isinstance(event, h2.events.StreamEnded):
                self.ended.add(event.stream_id)
            elif isinstance(event, (h2.events.StreamReset, h2.events.ConnectionTerminated)):
                sys.exit(repr(event))
        self.flush()

    def send(self, stream, data):
        while data:
            room = min(self.conn.local_flow_control_window(stream), self.conn.max_outbound_frame_size)
            if room == 0:
                self.pump()
                continue
            self.conn.send_data(stream, data[:room])
            self.flush()
            data = data[room:]

    def receive(self, stream):
        while not self.data.get(stream) and stream not in self.ended:
            self.pump()
        data, self.data[stream] = self.data[stream], b""
        return data

def echo(ws, data, send):
    """Answers what has come; says whether the WebSocket is closed."""
    ws.receive_data(data)
    for event in ws.events():
        if isinstance(event, Request):
            send(ws.send(AcceptConnection()))
        elif isinstance(event, (TextMessage, BytesMessage)):
            send(ws.send(type(event)(data=event.data, message_finished=event.message_finished)))
        elif isinstance(event, Ping):
            send(ws.send(event.response()))
        elif isinstance(event, CloseConnection):
            send(ws.send(event.response()))
            return True
    return False

def serve1(sock):
    ws = WSConnection(ConnectionType.SERVER)
    while data := sock.recv(65536):
        if echo(ws, data, sock.sendall):
            break
    sock.close()

def serve2(sock):
    streams, open_ones = Streams(sock, False), {}
    try:
        while True:
            streams.pump()
            for stream, head in list(streams.heads.items()):
                del streams.heads[stream]
                if head.get(":protocol") != "websocket" or head[":method"] != "CONNECT" or head[":path"] != "/chat":
                    sys.exit(repr(head))
                streams.conn.send_headers(stream, [(":status", "200")])
                open_ones[stream] = Connection(ConnectionType.SERVER)
            while ready := [stream for stream in open_ones if streams.data[stream]]:
                for stream in ready:
                    data = streams.receive(stream)
                    if echo(open_ones[stream], data, lambda data: streams.send(stream, data)):
                        del open_ones[stream]
                        streams.conn.end_stream(stream)
            streams.flush()
    except (EOFError, ConnectionError):
        pass

def talk(ws, send, receive):
    """Says a little of everything, and hears the same."""
    events = []
    def hear():
        while not events:
            data = receive()
            assert data, "it ends too early"
            ws.receive_data(data)
            events.extend(ws.events())
        return events.pop(0)
    def message():
        parts = [hear()]
        while not parts[-1].message_finished:
            parts.append(hear())
        return type(parts[0].data)().join(part.data for part in parts)
    send(ws.send(TextMessage(data="hello \u00e9")))
    assert message() == "hello \u00e9"
    large = bytes(range(256)) * 1000
    send(ws.send(BytesMessage(data=large)))
    assert message() == large
    send(ws.send(TextMessage(data="one ", message_finished=False)) + ws.send(TextMessage(data="two")))
    assert message() == "one two"
    send(ws.send(Ping(payload=b"there?")))
    answer = hear()
    assert isinstance(answer, Pong) and answer.payload == b"there?", answer
    send(ws.send(CloseConnection(code=1000, reason="done")))
    answer = hear()
    assert isinstance(answer, CloseConnection) and (answer.code, answer.reason) == (1000, "done"), answer

def ask1(sock):
    ws = WSConnection(ConnectionType.CLIENT)
    sock.sendall(ws.send(Request(host="shop.example", target="/chat")))
    begin = b""
    while b"\r\n\r\n" not in begin:
        begin += sock.recv(65536)
    ws.receive_data(begin)
    accepted = next(iter(ws.events()))
    assert isinstance(accepted, AcceptConnection), accepted
    talk(ws, sock.sendall, lambda: sock.recv(65536))
    # RFC 6455, section 7.1.1: the server ends the connection first.
    assert sock.recv(1) == b""

def ask2(sock):
    streams = Streams(sock, True)
    while not streams.conn.remote_settings.enable_connect_protocol:
        streams.pump()
    for stream in (1, 3):
        head = [(":method", "CONNECT"), (":protocol", "websocket"), (":scheme", "https"), (":path", "/chat"),
                (":authority", "shop.example"), ("sec-websocket-version", "13")]
        streams.conn.send_headers(stream, head)
    streams.flush()
    for stream in (3, 1):
        while stream not in streams.heads:
            streams.pump()
        assert streams.heads[stream][":status"] == "200", streams.heads
        talk(Connection(ConnectionType.CLIENT), lambda data: streams.send(stream, data), lambda: streams.receive(stream))
        streams.conn.end_stream(stream)
        streams.flush()
        assert streams.receive(stream) == b""

role, host, port = sys.argv[1], *sys.argv[2].rsplit(":", 1)
if role.startswith("serve"):
    listener = socket.create_server((host, int(port)))
    while True:
        sock, _ = listener.accept()
        threading.Thread(target=globals()[role], args=(sock,), daemon=True).start()
sock = socket.create_connection((host, int(port)), timeout=20)
if len(sys.argv) > 3:
    context = ssl.create_default_context(cafile=sys.argv[3])
    context.set_alpn_protocols(["h2" if role == "ask2" else "http/1.1"])
    sock = context.wrap_socket(sock, server_hostname="shop.example")
globals()[role](sock)
print("done")

# Calls in gRPC-Web, byte by byte: in HTTP/1.1 and HTTP/2, binary and text. Each function is a step of a test, which goes through
# all four; says "ok" behind each.
import base64
import socket
import struct
import sys

import h2.config
import h2.connection
import h2.events

LIMIT_S = 30
host, port = sys.argv[1].rsplit(":", 1)


class Http1:
    def __init__(self, path, headers):
        self.socket = socket.create_connection((host, int(port)), LIMIT_S)
        self.file = self.socket.makefile("rb")
        lines = ["POST %s HTTP/1.1" % path, "host: web", "transfer-encoding: chunked"]
        lines += ["%s: %s" % field for field in headers.items()]
        self.socket.sendall("\r\n".join(lines + ["", ""]).encode())

    def send(self, data, is_last=False):
        chunk = b"%x\r\n%s\r\n" % (len(data), data) if data else b""
        self.socket.sendall(chunk + (b"0\r\n\r\n" if is_last else b""))

    def head(self):
        status = int(self.file.readline().split()[1])
        headers = {}
        while (line := self.file.readline().decode().strip()):
            name, value = line.split(": ", 1)
            headers[name] = value
        self.is_over = headers.get("content-length") == "0"
        assert self.is_over or headers["transfer-encoding"] == "chunked", headers
        return status, headers

    def read(self):
        if self.is_over:
            return b""
        line = self.file.readline()
        if not line:
            raise EOFError
        data = self.file.read(int(line, 16))
        assert self.file.readline() == b"\r\n"
        self.is_over = not data
        return data


class Http2:
    def __init__(self, path, headers):
        self.socket = socket.create_connection((host, int(port)), LIMIT_S)
        self.connection = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="utf-8"))
        self.connection.initiate_connection()
        first = {":method": "POST", ":scheme": "http", ":authority": "web", ":path": path}
        self.connection.send_headers(1, [*first.items(), *headers.items()])
        self.events = []
        self.flush()

    def flush(self):
        self.socket.sendall(self.connection.data_to_send())

    def send(self, data, is_last=False):
        self.connection.send_data(1, data, end_stream=is_last)
        self.flush()

    def next(self, *kinds):
        while True:
            while self.events:
                event = self.events.pop(0)
                assert not isinstance(event, h2.events.TrailersReceived), "browsers see no trailers"
                if isinstance(event, h2.events.StreamReset):
                    raise EOFError
                if isinstance(event, kinds):
                    return event
            data = self.socket.recv(65536)
            if not data:
                raise EOFError
            self.events += self.connection.receive_data(data)
            self.flush()

    def head(self):
        headers = dict(self.next(h2.events.ResponseReceived).headers)
        return int(headers.pop(":status")), headers

    def read(self):
        event = self.next(h2.events.DataReceived, h2.events.StreamEnded)
        if isinstance(event, h2.events.StreamEnded):
            return b""
        self.connection.acknowledge_received_data(event.flow_controlled_length, 1)
        self.flush()
        return event.data or self.read()


class Call:
    def __init__(self, method, **headers):
        kind = "application/grpc-web-text+proto" if is_text else "application/grpc-web+proto"
        headers = {name.replace("_", "-"): value for name, value in headers.items()}
        sent = {"content-type": kind, "x-grpc-web": "1", "x-user-agent": "by-hand", **headers}
        self.http = version("/test.Service/" + method, sent)
        self.kind = headers.get("accept", kind)
        self.chars, self.bytes, self.trailers = b"", b"", None

    def send(self, message, is_last=False):
        data = struct.pack(">BI", 0, len(message)) + message
        self.send_raw(base64.b64encode(data) if is_text else data, is_last)

    def send_raw(self, data, is_last=False):
        self.http.send(data, is_last)

    def head(self):
        status, self.headers = self.http.head()
        assert status == 200, status
        if "grpc-status" in self.headers:
            self.trailers = self.headers
            assert self.http.read() == b""
        else:
            assert self.headers["content-type"].startswith(self.kind.split("+")[0]), self.headers
        return self.headers

    def more(self):
        data = self.http.read()
        assert data, "the end came before the trailers"
        if not self.kind.startswith("application/grpc-web-text"):
            self.bytes += data
            return
        self.chars += data
        while len(self.chars) >= 4:
            self.bytes += base64.b64decode(self.chars[:4], validate=True)
            self.chars = self.chars[4:]

    # The next message; none if there are trailers instead.
    def message(self):
        if self.trailers is not None:
            return None
        while len(self.bytes) < 5 or len(self.bytes) < 5 + struct.unpack(">I", self.bytes[1:5])[0]:
            self.more()
        flag, length = struct.unpack(">BI", self.bytes[:5])
        frame, self.bytes = self.bytes[5:5 + length], self.bytes[5 + length:]
        if flag == 0:
            return frame
        assert flag == 0x80 and not self.bytes and not self.chars, (flag, self.bytes)
        lines = frame.decode().split("\r\n")
        assert lines.pop() == ""
        self.trailers = dict(line.split(": ", 1) for line in lines)
        assert self.http.read() == b""
        return None

    def messages(self):
        self.head()
        return list(iter(self.message, None))

    def ends(self, status):
        assert self.message() is None
        assert self.trailers["grpc-status"] == str(status), self.trailers


def ask(method, message, **headers):
    call = Call(method, **headers)
    call.send(message, True)
    return call


def shapes():
    sent = base64.b64encode(b"\0\1\xfe").decode()
    call = ask("Unary", b"hello", x_sent="s", x_sent_bin=sent)
    assert call.messages() == [b"hello|s|\0\1\xfe"]
    call.ends(0)
    assert call.headers["x-first"] == "1" and base64.b64decode(call.headers["x-first-bin"] + "==") == b"\0\xff"
    assert call.trailers["x-last"] == "2" and base64.b64decode(call.trailers["x-last-bin"] + "==") == b"\xff\0"
    call = ask("ServerStream", b"100 5000")
    assert call.messages() == [b"%d" % (n % 10) * 5000 for n in range(100)]
    call.ends(0)


def turns():
    # each answer is awaited before the next question: nothing may be held back
    call = Call("Echo")
    for number in range(50):
        message = b"x" * number
        call.send(message)
        if number == 0:
            call.head()
        assert call.message() == message
    call.send_raw(b"", True)
    call.ends(0)


def split():
    # characters and messages in pieces that end anywhere
    frames = b"".join(struct.pack(">BI", 0, size) + b"m" * size for size in (0, 1, 2, 3, 400))
    body = base64.b64encode(frames) if is_text else frames
    call = Call("Echo")
    for at in range(0, len(body), 7):
        call.send_raw(body[at:at + 7])
    call.send_raw(b"", True)
    assert call.messages() == [b"m" * size for size in (0, 1, 2, 3, 400)]
    call.ends(0)


def accept():
    # the answer's form is the client's choice, too
    for kind in "application/grpc-web-text", "application/grpc-web+proto":
        call = ask("Unary", b"hello", accept=kind)
        assert call.messages() == [b"hello||"]
        call.ends(0)


def statuses():
    call = ask("Fail", b"")
    assert call.messages() == []
    call.ends(5)
    assert call.trailers["grpc-message"] == "gibt es nicht: %C3%A4 %25", call.trailers
    assert base64.b64decode(call.trailers["grpc-status-details-bin"] + "==") == b"\x08\x05details"
    call = ask("Missing", b"")
    assert call.messages() == []
    call.ends(12)
    call = ask("GiveUp", b"abort")
    assert call.messages() == [b"1", b"2"]
    call.ends(10)


def deadline():
    call = ask("Hang", b"", grpc_timeout="500m")
    assert call.messages() == []
    call.ends(4)


def weir_says(call, status, reason):
    assert call.messages() == []
    call.ends(status)
    assert call.trailers["x-weir-reason"] == reason, call.trailers


def unavailable():
    weir_says(ask("Unary", b""), 14, "connect_refused")


def limited():
    weir_says(ask("Unary", b""), 8, "rate_limited")


def too_long():
    weir_says(ask("Unary", b"x" * 200), 8, "request_too_large")


def malformed():
    for body in (b"AAAAAAA!", b"AA=A", b"AAAAA") if is_text else ():
        call = Call("Unary")
        call.send_raw(body, True)
        weir_says(call, 13, "bad_encoding")


def long_trailers():
    # what is longer than a head may be does not come through
    call = ask("Trailers", b"100000")
    assert call.messages() == [b""]
    assert "x-long" not in call.trailers, call.trailers
    call = ask("Trailers", b"1000")
    assert call.messages() == [b""]
    call.ends(0)
    assert len(call.trailers["x-long"]) == 1000


def flaky():
    call = ask("Flaky", b"%s%d%d 2" % (sys.argv[3].encode(), is_text, version is Http2))
    assert call.messages() == [b"3"]
    call.ends(0)


def broken():
    # the server dies between two messages: that is said, and not by silence
    calls.append(Call("Echo"))
    calls[-1].send(b"1")
    calls[-1].head()
    assert calls[-1].message() == b"1"


def dead():
    for call in calls:
        call.ends(14)
        assert call.trailers["x-weir-reason"] == "response_cut", call.trailers


calls = []
for step in sys.argv[2].split(","):
    if step == "dead":
        print("waiting", flush=True)
        sys.stdin.readline()
        dead()
    else:
        for version in Http1, Http2:
            for is_text in False, True:
                globals()[step]()
    print("ok", step, flush=True)

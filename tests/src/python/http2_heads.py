# Both ends of HTTP/2 with heads and trailers of any size, by `h2`; the server resets and answers as its path says.
import json
import socket
import sys
import threading
import time

import h2.config
import h2.connection
import h2.events
import h2.settings

LIMIT_S = 30
# More than anything here says: this end drops nothing.
MOST = 1 << 20
# What a client of HTTP/1.1 would take for its next answer.
SMUGGLED = b"HTTP/1.1 200 OK\r\ncontent-length: 7\r\n\r\nsmuggle"
MAX_HEADER_LIST_SIZE = h2.settings.SettingCodes.MAX_HEADER_LIST_SIZE


class Http2:
    def __init__(self, stream, is_client):
        stream.settimeout(LIMIT_S)
        self.stream = stream
        self.http = h2.connection.H2Connection(h2.config.H2Configuration(is_client, header_encoding="utf-8"))
        self.http.local_settings = h2.settings.Settings(client=is_client, initial_values={MAX_HEADER_LIST_SIZE: MOST})
        self.http.decoder.max_header_list_size = MOST
        self.http.initiate_connection()
        self.flush()
        self.heads, self.trailers, self.data, self.ends = {}, {}, {}, {}
        self.goaway = None

    def flush(self):
        self.stream.sendall(self.http.data_to_send())

    def read(self):
        data = self.stream.recv(65536)
        if not data:
            raise EOFError("the connection ended")
        for event in self.http.receive_data(data):
            number = getattr(event, "stream_id", None)
            if isinstance(event, (h2.events.RequestReceived, h2.events.ResponseReceived)):
                self.heads[number] = dict(event.headers)
            elif isinstance(event, h2.events.TrailersReceived):
                self.trailers[number] = dict(event.headers)
            elif isinstance(event, h2.events.DataReceived):
                self.data.setdefault(number, bytearray()).extend(event.data)
                self.http.acknowledge_received_data(event.flow_controlled_length, number)
            elif isinstance(event, h2.events.StreamEnded):
                self.ends[number] = "end"
            elif isinstance(event, h2.events.StreamReset):
                self.ends[number] = f"reset {int(event.error_code)}"
            elif isinstance(event, h2.events.ConnectionTerminated):
                self.goaway = int(event.error_code)
        self.flush()

    def wait(self, number):
        while number not in self.ends and self.goaway is None:
            self.read()


def fields(count, shape):
    """Fields of so many bytes in all: one, or many."""
    size = count if shape == "one" else 1000
    return [(f"x-{number}", "a" * size) for number in range(count // size if count else 0)]


def serve_one(stream):
    http = Http2(stream, False)
    seen = set()
    while True:
        for number in [number for number in http.ends if number not in seen]:
            seen.add(number)
            if http.ends[number] != "end":
                continue
            path, head, tail, shape = http.heads[number][":path"].split("?")[0].split("/")[1:]
            if path == "bare":
                # An answer that has no body, and says so too late, or has one all the same.
                length = [("content-length", str(len(SMUGGLED)))] if shape == "length" else []
                http.http.config.validate_outbound_headers = False
                http.http.send_headers(number, [(":status", head), *length])
                http.flush()
                time.sleep(0.1)
                send_raw(stream, number, SMUGGLED if tail == "1" else b"")
                continue
            sent = sum(len(value) for name, value in http.trailers.get(number, {}).items() if name.startswith("x-"))
            http.http.send_headers(number, [(":status", "200"), *fields(int(head), shape)])
            http.flush()
            http.http.send_data(number, f"{path} {sent}".encode(), end_stream=tail == "0")
            if tail != "0":
                http.http.send_headers(number, fields(int(tail), shape), end_stream=True)
            http.flush()
        http.read()


def send_raw(stream, number, data):
    """The last DATA of a stream, whatever `h2` would say."""
    stream.sendall(len(data).to_bytes(3, "big") + b"\0\x01" + number.to_bytes(4, "big") + data)


def serve(address, port):
    listener = socket.create_server((address, port))
    while True:
        stream, _ = listener.accept()

        def run(stream=stream):
            try:
                serve_one(stream)
            except (EOFError, ConnectionError, TimeoutError):
                stream.close()

        threading.Thread(target=run, daemon=True).start()


def ask(address, port, path, head, tail, shape):
    """Asks with a head and trailers of so many bytes, then once more with none; tells how both went."""
    http = Http2(socket.create_connection((address, port), LIMIT_S), True)
    told = []
    for path, head, tail in ((path, int(head), int(tail)), ("/other/0/0/one", 0, 0)):
        number = http.http.get_next_available_stream_id()
        said = [(":method", "POST"), (":scheme", "http"), (":authority", "x"), (":path", path)]
        http.http.send_headers(number, [*said, *fields(head, shape)])
        http.http.send_data(number, b"asked", end_stream=not tail)
        if tail:
            http.http.send_headers(number, fields(tail, shape), end_stream=True)
        try:
            http.flush()
            http.wait(number)
        except (EOFError, ConnectionError):
            pass
        got = http.heads.get(number, {})
        told.append({
            "status": got.get(":status"),
            "reason": got.get("x-weir-reason"),
            "body": http.data.get(number, b"").decode(),
            "trailers": sum(len(value) for value in http.trailers.get(number, {}).values()),
            "end": http.ends.get(number),
            "goaway": http.goaway,
        })
        if http.goaway is not None:
            break
    offers = http.http.remote_settings.get(MAX_HEADER_LIST_SIZE)
    print(json.dumps({"told": told, "offers": offers}))


def ask1(address, port, method, path):
    """Asks twice by HTTP/1.1; tells all that came."""
    stream = socket.create_connection((address, port), LIMIT_S)
    stream.settimeout(LIMIT_S)
    got = b""
    try:
        stream.sendall(f"{method} {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        while b"\r\n\r\n" not in got:
            got += stream.recv(65536) or b"\r\n\r\nended"
        # Whatever comes behind the head has time to.
        time.sleep(0.4)
        stream.sendall(b"GET /other/0/0/one HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        while more := stream.recv(65536):
            got += more
    except ConnectionError:
        got += b"reset"
    print(json.dumps(got.decode()))


what, address, port = sys.argv[1], sys.argv[2], int(sys.argv[3])
{"serve": serve, "ask": ask, "ask1": ask1}[what](address, port, *sys.argv[4:])

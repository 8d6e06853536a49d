# Both ends of HTTP/2 with heads and trailers of any size, by `h2`; the server resets and answers as its path says.
import json
import socket
import sys
import threading

import h2.config
import h2.connection
import h2.events
import h2.settings

LIMIT_S = 30
# More than anything here says: this end drops nothing.
MOST = 1 << 20
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
            sent = sum(len(value) for name, value in http.trailers.get(number, {}).items() if name.startswith("x-"))
            http.http.send_headers(number, [(":status", "200"), *fields(int(head), shape)])
            http.flush()
            http.http.send_data(number, f"{path} {sent}".encode(), end_stream=tail == "0")
            if tail != "0":
                http.http.send_headers(number, fields(int(tail), shape), end_stream=True)
            http.flush()
        http.read()


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


what, address, port = sys.argv[1], sys.argv[2], int(sys.argv[3])
{"serve": serve, "ask": ask}[what](address, port, *sys.argv[4:])

# A client of HTTP that counts the bytes which it sends and receives, inside of TLS if it speaks that: one request with a body, its
# answer, and when it is told to, another one and the end.
import json
import socket
import ssl
import sys

import h2.config
import h2.connection
import h2.events

LIMIT_S = 30
BODY = b"b" * 300_000
FENCE = b"all here"

version, address, port, authority = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4]


class Counting:
    def __init__(self):
        self.stream = socket.create_connection((address, port), LIMIT_S)
        if authority != "-":
            context = ssl.create_default_context(cafile=authority)
            context.set_alpn_protocols(["h2" if version == "2" else "http/1.1"])
            self.stream = context.wrap_socket(self.stream, server_hostname="web.shop")
        self.sent = self.received = 0

    def say(self, data):
        self.stream.sendall(data)
        self.sent += len(data)

    def hear(self):
        data = self.stream.recv(65536)
        self.received += len(data)
        return data

    def tell(self):
        print(json.dumps({"sent": self.sent, "received": self.received}), flush=True)


class Http1(Counting):
    def ask(self):
        self.say(b"POST /asked HTTP/1.1\r\nHost: web.shop\r\nContent-Length: %d\r\n\r\n" % len(BODY) + BODY)
        held = b""
        while b"\r\n\r\n" not in held:
            held += self.hear()
        head, _, body = held.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200"), head
        fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:])
        left = int(fields[b"content-length"]) - len(body)
        while left:
            left -= len(self.hear())


class Http2(Counting):
    def __init__(self):
        super().__init__()
        self.http = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="utf-8"))
        self.http.initiate_connection()
        self.flush()

    def flush(self):
        self.say(self.http.data_to_send())

    def events(self):
        data = self.hear()
        assert data, "it ended"
        for event in self.http.receive_data(data):
            if isinstance(event, h2.events.DataReceived):
                self.http.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            yield event
        self.flush()

    def ask(self):
        number = self.http.get_next_available_stream_id()
        fields = [(":method", "POST"), (":scheme", "http"), (":authority", "web.shop"), (":path", "/asked")]
        self.http.send_headers(number, fields)
        left = BODY
        has_ended = False
        while left or not has_ended:
            room = min(self.http.local_flow_control_window(number), len(left))
            while room:
                piece, left = left[: min(room, 16384)], left[min(room, 16384) :]
                room -= len(piece)
                self.http.send_data(number, piece, end_stream=not left)
            self.flush()
            for event in self.events():
                has_ended |= isinstance(event, h2.events.StreamEnded)
        # What was said before the answer to this is here when the answer is.
        self.http.ping(FENCE)
        self.flush()
        while not any(isinstance(event, h2.events.PingAckReceived) for event in self.events()):
            pass


client = Http2() if version == "2" else Http1()
client.ask()
client.tell()
sys.stdin.readline()
client.ask()
client.tell()
client.stream.close()

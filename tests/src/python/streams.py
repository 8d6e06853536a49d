# Many answers side by side, of which one is given up at one end; the others have to be whole, byte for byte. Both ends, in HTTP/1.1
# and in HTTP/2 by `h2`.
import socket
import struct
import sys
import threading

import h2.config
import h2.connection
import h2.events

LIMIT_S = 60
PERIOD = bytes(range(251))
# What is left has more than sockets hold: its server is still sending then.
BYTES = {"/whole": 3 << 20, "/broken": 3 << 20, "/left": 32 << 20}
PIECE = 16384
# After so many bytes an answer is given up.
BROKEN_AT = 500_000
CANCEL, INTERNAL_ERROR = 8, 2


def pattern(begin, count):
    skip = begin % len(PERIOD)
    return (PERIOD * (count // len(PERIOD) + 2))[skip : skip + count]


# Threads tell, and a line of one must not begin within another's.
LOCK = threading.Lock()


def tell(*words):
    with LOCK:
        print(*words, flush=True)


class Http2:
    def __init__(self, stream, is_client):
        stream.settimeout(LIMIT_S)
        self.stream = stream
        self.http = h2.connection.H2Connection(h2.config.H2Configuration(is_client, header_encoding="utf-8"))
        self.http.initiate_connection()
        self.flush()

    def flush(self):
        self.stream.sendall(self.http.data_to_send())

    def events(self):
        data = self.stream.recv(65536)
        if not data:
            raise EOFError("the connection ended")
        events = self.http.receive_data(data)
        for event in events:
            if isinstance(event, h2.events.DataReceived):
                self.http.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        self.flush()
        return events


def serve2_one(stream):
    http, sent, paths = Http2(stream, False), {}, {}
    while True:
        for event in http.events():
            number = getattr(event, "stream_id", None)
            if isinstance(event, h2.events.RequestReceived):
                sent[number], paths[number] = 0, dict(event.headers)[":path"]
                fields = [(":status", "200"), ("content-length", str(BYTES[paths[number]]))]
                http.http.send_headers(number, fields)
            elif isinstance(event, h2.events.StreamReset) and sent.pop(number, None) is not None:
                tell("reset", paths[number])
        is_moving = True
        while is_moving:
            is_moving = False
            for number in list(sent):
                if paths[number] == "/broken" and sent[number] >= BROKEN_AT:
                    del sent[number]
                    http.http.reset_stream(number, INTERNAL_ERROR)
                    continue
                room = min(http.http.local_flow_control_window(number), PIECE, BYTES[paths[number]] - sent[number])
                if room > 0:
                    http.http.send_data(number, pattern(sent[number], room))
                    sent[number] += room
                    is_moving = True
                if sent[number] == BYTES[paths[number]]:
                    http.http.end_stream(number)
                    del sent[number]
            http.flush()


def serve1_one(stream):
    file = stream.makefile("rb")
    while line := file.readline():
        path = line.decode().split(" ")[1]
        while file.readline() not in (b"\r\n", b""):
            pass
        try:
            stream.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % BYTES[path])
            for begin in range(0, BYTES[path], PIECE):
                if path == "/broken" and begin >= BROKEN_AT:
                    stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    file.close()
                    return
                stream.sendall(pattern(begin, min(PIECE, BYTES[path] - begin)))
        except OSError:
            tell("reset", path)
            return


def serve(address, port, one):
    listener = socket.create_server((address, port))
    while True:
        stream, _ = listener.accept()
        tell("connected")

        def run(stream=stream):
            try:
                one(stream)
            except (EOFError, OSError):
                pass
            stream.close()

        threading.Thread(target=run, daemon=True).start()


def check2(address, port, paths):
    """Asks for all on one connection; gives up what is to be left, and tells how each ended."""
    http = Http2(socket.create_connection((address, port), LIMIT_S), True)
    asked, got, ends = {}, {}, {}
    for path in paths:
        number = http.http.get_next_available_stream_id()
        fields = [(":method", "GET"), (":scheme", "http"), (":authority", "x"), (":path", path)]
        http.http.send_headers(number, fields, end_stream=True)
        asked[number], got[number] = path, 0
    http.flush()
    while len(ends) < len(asked):
        for event in http.events():
            number = getattr(event, "stream_id", None)
            if isinstance(event, h2.events.DataReceived) and number not in ends:
                assert event.data == pattern(got[number], len(event.data)), f"{asked[number]} at {got[number]}"
                got[number] += len(event.data)
                if asked[number] == "/left" and got[number] >= BROKEN_AT:
                    http.http.reset_stream(number, CANCEL)
                    http.flush()
                    ends[number] = "left"
            elif isinstance(event, h2.events.StreamEnded):
                ends[number] = "whole" if got[number] == BYTES[asked[number]] else f"cut {got[number]}"
            elif isinstance(event, h2.events.StreamReset) and number not in ends:
                ends[number] = "reset"
    return [ends[number] for number in sorted(ends)]


def check1_one(address, port, path, ends, index):
    stream = socket.create_connection((address, port), LIMIT_S)
    stream.sendall(b"GET %s HTTP/1.1\r\nHost: x\r\n\r\n" % path.encode())
    held = b""
    while b"\r\n\r\n" not in held:
        held += stream.recv(65536)
    data, got = held.split(b"\r\n\r\n", 1)[1], 0
    try:
        while got < BYTES[path]:
            assert data == pattern(got, len(data)), f"{path} at {got}"
            got += len(data)
            if path == "/left" and got >= BROKEN_AT:
                stream.close()
                ends[index] = "left"
                return
            if got < BYTES[path] and not (data := stream.recv(65536)):
                ends[index] = f"cut {got}"
                return
        ends[index] = "whole"
    except ConnectionResetError:
        ends[index] = "reset"


def check1(address, port, paths):
    """The same, with a connection for each."""
    ends = [None] * len(paths)
    all = [threading.Thread(target=check1_one, args=(address, port, path, ends, i)) for i, path in enumerate(paths)]
    for one in all:
        one.start()
    for one in all:
        one.join()
    return ends


what, address, port = sys.argv[1], sys.argv[2], int(sys.argv[3])
if what.startswith("serve"):
    serve(address, port, {"serve1": serve1_one, "serve2": serve2_one}[what])
else:
    tell(*{"check1": check1, "check2": check2}[what](address, port, sys.argv[4:]))

# Frames that a decent client never sends, and what becomes of the connection. Says the error code of the GOAWAY, or of the
# RST_STREAM of stream 1, or "closed".
import socket
import sys
import time

import hpack
from hyperframe import frame

LIMIT_S = 20
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

host, port, name = sys.argv[1], int(sys.argv[2]), sys.argv[3]
def head(stream=1, fields=(), method="GET", end=True, **more):
    pseudo = {":method": method, ":scheme": "http", ":authority": "x", ":path": "/"}
    pseudo.update(more.get("pseudo", {}))
    # without a memory, unless one is given: what is encoded need not be sent
    encoder = more.get("encoder") or hpack.Encoder()
    block = encoder.encode([(k, v) for k, v in pseudo.items() if v is not None] + list(fields))
    made = frame.HeadersFrame(stream, block)
    made.flags.add("END_HEADERS")
    if end:
        made.flags.add("END_STREAM")
    return made.serialize()


def data(stream, size, end=False):
    made = frame.DataFrame(stream, b"x" * size)
    if end:
        made.flags.add("END_STREAM")
    return made.serialize()


def raw(length, kind, flags, stream, payload=b""):
    return length.to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


def pings():
    ping = frame.PingFrame(0, b"12345678").serialize()
    while True:
        yield ping * 100


def settings():
    while True:
        yield frame.SettingsFrame(0).serialize() * 100


def rapid_reset():
    for stream in range(1, 1_000_000, 2):
        yield head(stream) + frame.RstStreamFrame(stream, 8).serialize()


def continuations():
    encoder = hpack.Encoder()
    block = encoder.encode([(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "x")])
    yield raw(len(block), 1, 0, 1, block)
    while True:
        filler = encoder.encode([("x-%d" % time.monotonic_ns(), "y" * 1000)])
        yield raw(len(filler), 9, 0, 1, filler)


def dribble():
    yield head(1, method="POST", end=False)
    while True:
        yield data(1, 1) * 100


def empty_data():
    yield head(1, method="POST", end=False)
    while True:
        yield data(1, 0) * 100


def priorities():
    made = frame.PriorityFrame(3)
    while True:
        yield made.serialize() * 100


def windows():
    while True:
        yield frame.WindowUpdateFrame(0, 1).serialize() * 100


def hpack_bomb():
    # a large field in the table, and an index of one byte for each further copy
    big, encoder = [("x-bomb", "y" * 3900)], hpack.Encoder()
    for stream in range(1, 200, 2):
        yield head(stream, big * 4000, encoder=encoder)


def once(*pieces):
    def send():
        yield b"".join(pieces)

    return send


# RFC 9113, by section: what comes, and where its error belongs
VIOLATIONS = {
    "none": lambda: iter([head(1)]),
    "4.1-too-large": once(raw(16385, 0, 0, 1, b"x" * 16385)),
    "4.3-bad-hpack": once(raw(3, 1, 5, 1, b"\xff\xff\xff")),
    "5.1-data-on-idle": once(data(1, 1)),
    "5.1-window-on-idle": once(frame.WindowUpdateFrame(1, 1).serialize()),
    "5.1.1-even-stream": once(head(2)),
    "5.1.1-stream-goes-back": once(head(3), head(1)),
    "5.1-head-after-end": once(head(1), head(1)),
    "6.1-data-on-zero": once(raw(1, 0, 0, 0, b"x")),
    "6.1-padding-too-long": once(head(1, method="POST", end=False), raw(2, 0, 8, 1, b"\x05x")),
    "6.2-head-on-zero": once(raw(1, 1, 4, 0, b"\x82")),
    "6.3-priority-length": once(raw(4, 2, 0, 1, b"xxxx")),
    "6.4-reset-on-zero": once(raw(4, 3, 0, 0, b"\0\0\0\x08")),
    "6.4-reset-length": once(head(1, method="POST", end=False), raw(3, 3, 0, 1, b"\0\0\0")),
    "6.4-reset-on-idle": once(raw(4, 3, 0, 1, b"\0\0\0\x08")),
    "6.5-settings-length": once(raw(5, 4, 0, 0, b"xxxxx")),
    "6.5-settings-on-stream": once(raw(0, 4, 0, 1)),
    "6.5-ack-with-payload": once(raw(6, 4, 1, 0, b"\0\1\0\0\0\0")),
    "6.5.2-window-too-large": once(raw(6, 4, 0, 0, b"\0\4\xff\xff\xff\xff")),
    "6.5.2-push-is-no-bool": once(raw(6, 4, 0, 0, b"\0\2\0\0\0\2")),
    "6.5.2-frame-too-small": once(raw(6, 4, 0, 0, b"\0\5\0\0\0\1")),
    "6.6-push-of-a-client": once(raw(4, 5, 4, 1, b"\0\0\0\2")),
    "6.7-ping-length": once(raw(7, 6, 0, 0, b"1234567")),
    "6.7-ping-on-stream": once(raw(8, 6, 0, 1, b"12345678")),
    "6.8-goaway-on-stream": once(raw(8, 7, 0, 1, b"\0" * 8)),
    "6.9-window-zero": once(raw(4, 8, 0, 0, b"\0\0\0\0")),
    "6.9-window-zero-of-stream": once(head(1, method="POST", end=False), raw(4, 8, 0, 1, b"\0\0\0\0")),
    "6.9.1-window-overflow": once(frame.WindowUpdateFrame(0, 2**31 - 1).serialize()),
    "6.10-continuation-alone": once(raw(1, 9, 4, 1, b"\x82")),
    "6.10-something-between": once(raw(1, 1, 0, 1, b"\x82"), raw(8, 6, 0, 0, b"12345678")),
    "8.1.1-more-than-said": once(head(1, [("content-length", "1")], "POST", end=False), data(1, 2, end=True)),
    "8.2-upper-case": once(head(1, [("X-Upper", "x")])),
    "8.2.2-connection": once(head(1, [("connection", "close")])),
    "8.2.2-te": once(head(1, [("te", "gzip")])),
    "8.3-unknown-pseudo": once(head(1, pseudo={":other": "x"})),
    "8.3.1-no-method": once(head(1, pseudo={":method": None})),
    "8.3.1-no-path": once(head(1, pseudo={":path": None})),
    "8.3-pseudo-behind": once(head(1, [("x", "y"), (":path", "/")])),
}

FLOODS = {
    f.__name__: f
    for f in (pings, settings, rapid_reset, continuations, dribble, empty_data, priorities, windows, hpack_bomb)
}


def listen(stream, received):
    # gives the verdict once it is there
    while len(received) >= 9:
        length = int.from_bytes(received[:3], "big")
        if len(received) < 9 + length:
            return None
        kind, of = received[3], int.from_bytes(received[5:9], "big")
        payload = bytes(received[9 : 9 + length])
        del received[: 9 + length]
        if kind == 7:
            code = int.from_bytes(payload[4:8], "big")
            if code:
                return "goaway %d" % code
        # a flood goes on although its request has been answered and closed
        if kind == 3 and of == 1 and name in VIOLATIONS:
            return "reset %d" % int.from_bytes(payload, "big")
        if kind == 1 and of == 1 and name in VIOLATIONS:
            status = [v for k, v in hpack.Decoder().decode(payload) if k == ":status"]
            return "answer %s" % status[0]
    return None


def main():
    stream = socket.create_connection((host, port), timeout=LIMIT_S)
    stream.sendall(PREFACE + frame.SettingsFrame(0).serialize())
    received, verdict, ends = bytearray(), None, time.monotonic() + LIMIT_S
    pieces = (VIOLATIONS.get(name) or FLOODS[name])()
    try:
        for piece in pieces:
            stream.settimeout(LIMIT_S)
            stream.sendall(piece)
            stream.settimeout(0.0)
            try:
                while more := stream.recv(65536):
                    received += more
            except BlockingIOError:
                pass
            verdict = listen(stream, received)
            if verdict or time.monotonic() > ends:
                break
        stream.settimeout(LIMIT_S)
        while not verdict:
            more = stream.recv(65536)
            if not more:
                verdict = "closed"
                break
            received += more
            verdict = listen(stream, received)
    except (ConnectionResetError, BrokenPipeError):
        # what was said before the reset may still be there
        try:
            while more := stream.recv(65536):
                received += more
        except OSError:
            pass
        verdict = listen(stream, received) or "closed"
    except TimeoutError:
        verdict = "nothing"
    print(verdict or "nothing", flush=True)


if name == "list":
    print(" ".join(VIOLATIONS if sys.argv[4] == "violations" else FLOODS))
else:
    main()

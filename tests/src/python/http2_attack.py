# Frames that a decent client never sends, and what becomes of the connection. Says the error code of the GOAWAY, or of a
# RST_STREAM, or "closed".
import itertools
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


# in place of a piece: goes on when stream 1 has been answered to its end, or when the window of the connection is open
ANSWERED, READY = "answered", "ready"


def then(*pieces):
    return lambda: iter(pieces)


def block(*parts, stream=1, flags=5):
    # fields as they are, right or wrong
    payload = b"".join(parts)
    return raw(len(payload), 1, flags, stream, payload)


def setting(*pairs):
    payload = b"".join(k.to_bytes(2, "big") + v.to_bytes(4, "big") for k, v in pairs)
    return raw(len(payload), 4, 0, 0, payload)


def window(stream, increment):
    return raw(4, 8, 0, stream, increment.to_bytes(4, "big"))


def post(*fields):
    return head(1, fields, "POST", end=False)


GET = b"\x82\x86\x84\x41\x01x"
RESET = raw(4, 3, 0, 1, b"\0\0\0\x08")
PING = raw(8, 6, 0, 0, b"12345678")
PROTOCOL, FLOW_CONTROL, CLOSED, FRAME_SIZE, REFUSED, COMPRESSION = 1, 3, 5, 6, 7, 9


def goaway(code, *pieces):
    return "goaway %d" % code, once(*pieces)


def reset(code, *pieces):
    return "reset %d" % code, once(*pieces)


# RFC 9113, by section: the error it names and what is sent. Where an error would be one of a stream (5.4.2) and the connection
# ends, 5.4 allows it: such a client cannot be trusted with what it says next. A message that is malformed costs its stream only.
VIOLATIONS = {
    "3.4-no-settings": ("goaway 1", None),
    "4.1-too-large": goaway(FRAME_SIZE, raw(16385, 0, 0, 1, b"x" * 16385)),
    "4.2-head-too-large": goaway(FRAME_SIZE, raw(16385, 1, 4, 1, b"\x82" * 16385)),
    "4.3-index-zero": goaway(COMPRESSION, block(b"\x80")),
    "4.3-no-such-index": goaway(COMPRESSION, block(GET, b"\xbf")),
    "4.3-index-beyond-all": goaway(COMPRESSION, block(b"\xff\xff\xff")),
    "4.3-integer-without-end": goaway(COMPRESSION, block(b"\xff" * 10)),
    "4.3-string-too-long": goaway(COMPRESSION, block(GET, b"\x40\x7f\x20x")),
    "4.3-bad-huffman": goaway(COMPRESSION, block(GET, b"\x40\x01y\x84\xff\xff\xff\xff")),
    "4.3-table-too-large": goaway(COMPRESSION, block(b"\x3f\xff\x7f", GET)),
    "4.3-table-size-behind": goaway(COMPRESSION, block(GET, b"\x20")),
    "4.3-cut-off": goaway(COMPRESSION, block(GET, b"\x40")),
    "4.3-in-continuation": goaway(COMPRESSION, block(GET, flags=1), raw(1, 9, 4, 1, b"\x80")),
    "4.3-in-trailers": goaway(COMPRESSION, post(), block(b"\x80")),
    "4.3-behind-another": goaway(COMPRESSION, head(1), block(b"\x80", stream=3), head(5)),
    "5.1-data-on-idle": goaway(PROTOCOL, data(1, 1)),
    "5.1-window-on-idle": goaway(PROTOCOL, window(1, 1)),
    "5.1-reset-on-idle": goaway(PROTOCOL, RESET),
    "5.1-head-after-end": goaway(CLOSED, head(1), head(1)),
    "5.1-head-after-answer": ("goaway 5", then(head(1), ANSWERED, head(1))),
    "5.1-head-after-trailers": goaway(CLOSED, post(), block(b"\x40\x01x\x01y"), head(1)),
    "5.1-head-after-reset": goaway(CLOSED, post(), RESET, head(1)),
    "5.1-data-after-end": goaway(CLOSED, head(1), data(1, 1)),
    "5.1-data-after-answer": ("goaway 5", then(head(1), ANSWERED, data(1, 1))),
    "5.1-data-after-reset": goaway(CLOSED, post(), RESET, data(1, 1)),
    "5.1.1-even-stream": goaway(PROTOCOL, head(2)),
    "5.1.1-data-on-even-stream": goaway(PROTOCOL, head(3), data(2, 1)),
    "5.1.1-stream-goes-back": goaway(PROTOCOL, head(3), head(1)),
    "5.1.2-too-many-streams": reset(REFUSED, *[head(n, method="POST", end=False) for n in range(1, 601, 2)]),
    "6.1-data-on-zero": goaway(PROTOCOL, raw(1, 0, 0, 0, b"x")),
    "6.1-padding-too-long": goaway(PROTOCOL, post(), raw(2, 0, 8, 1, b"\x05x")),
    "6.1-padding-without-length": goaway(FRAME_SIZE, post(), raw(0, 0, 8, 1)),
    "6.2-head-on-zero": goaway(PROTOCOL, raw(1, 1, 4, 0, b"\x82")),
    "6.2-padding-too-long": goaway(PROTOCOL, raw(2, 1, 0xD, 1, b"\x05\x82")),
    "6.2-priority-too-short": goaway(FRAME_SIZE, raw(4, 1, 0x25, 1, b"\0\0\0\3")),
    "6.3-priority-on-zero": goaway(PROTOCOL, raw(5, 2, 0, 0, b"\0\0\0\1\0")),
    "6.3-priority-length": goaway(FRAME_SIZE, raw(4, 2, 0, 1, b"xxxx")),
    "6.4-reset-on-zero": goaway(PROTOCOL, raw(4, 3, 0, 0, b"\0\0\0\x08")),
    "6.4-reset-length": goaway(FRAME_SIZE, post(), raw(3, 3, 0, 1, b"\0\0\0")),
    "6.5-settings-length": goaway(FRAME_SIZE, raw(5, 4, 0, 0, b"xxxxx")),
    "6.5-settings-on-stream": goaway(PROTOCOL, raw(0, 4, 0, 1)),
    "6.5-ack-with-payload": goaway(FRAME_SIZE, raw(6, 4, 1, 0, b"\0\1\0\0\0\0")),
    "6.5-ack-of-nothing": goaway(PROTOCOL, raw(0, 4, 1, 0), raw(0, 4, 1, 0)),
    "6.5.2-window-too-large": goaway(FLOW_CONTROL, setting((4, 2**32 - 1))),
    "6.5.2-push-is-no-bool": goaway(PROTOCOL, setting((2, 2))),
    "6.5.2-frame-too-small": goaway(PROTOCOL, setting((5, 1))),
    "6.5.2-frame-too-large": goaway(PROTOCOL, setting((3, 1), (5, 2**24))),
    "6.6-push-of-a-client": goaway(PROTOCOL, raw(4, 5, 4, 1, b"\0\0\0\2")),
    "6.7-ping-length": goaway(FRAME_SIZE, raw(7, 6, 0, 0, b"1234567")),
    "6.7-ping-on-stream": goaway(PROTOCOL, raw(8, 6, 0, 1, b"12345678")),
    "6.8-goaway-on-stream": goaway(PROTOCOL, raw(8, 7, 0, 1, b"\0" * 8)),
    "6.8-goaway-length": goaway(FRAME_SIZE, raw(4, 7, 0, 0, b"\0" * 4)),
    "6.9-window-length": goaway(FRAME_SIZE, raw(3, 8, 0, 0, b"\0\0\1")),
    "6.9-window-zero": goaway(PROTOCOL, window(0, 0)),
    "6.9-window-zero-of-stream": goaway(PROTOCOL, post(), window(1, 0)),
    "6.9.1-window-overflow": goaway(FLOW_CONTROL, window(0, 2**31 - 1)),
    "6.9.1-window-overflow-of-stream": reset(FLOW_CONTROL, post(), window(1, 2**31 - 1)),
    "6.9.1-more-than-the-window": ("reset 3", then(READY, post() + data(1, 16384) * 5)),
    "6.9.2-overflow-by-settings": goaway(FLOW_CONTROL, post(), window(1, 2**30), setting((4, 2**31 - 1))),
    "6.10-continuation-alone": goaway(PROTOCOL, raw(1, 9, 4, 1, b"\x82")),
    "6.10-continuation-behind-the-end": goaway(PROTOCOL, head(1), raw(1, 9, 4, 1, b"\x82")),
    "6.10-another-stream": goaway(PROTOCOL, raw(1, 1, 0, 1, b"\x82"), raw(1, 9, 4, 3, b"\x86")),
    "6.10-something-between": goaway(PROTOCOL, raw(1, 1, 0, 1, b"\x82"), PING),
    "6.10-unknown-between": goaway(PROTOCOL, raw(1, 1, 0, 1, b"\x82"), raw(0, 0x42, 0, 0)),
    "8.1-trailers-without-end": reset(PROTOCOL, post(), block(b"\x40\x01x\x01y", flags=4)),
    "8.1.1-more-than-said": reset(PROTOCOL, post(("content-length", "1")), data(1, 2, end=True)),
    "8.1.1-less-than-said": reset(PROTOCOL, post(("content-length", "3")), data(1, 2, end=True)),
    "8.1.1-nothing-of-what-was-said": reset(PROTOCOL, head(1, [("content-length", "3")], "POST")),
    "8.1.1-two-lengths": reset(PROTOCOL, post(("content-length", "1"), ("content-length", "2"))),
    "8.2-upper-case": reset(PROTOCOL, head(1, [("X-Upper", "x")])),
    "8.2-space-in-name": reset(PROTOCOL, head(1, [("x y", "x")])),
    "8.2-line-in-value": reset(PROTOCOL, head(1, [("x", "a\r\nb: c")])),
    "8.2-nul-in-value": reset(PROTOCOL, head(1, [("x", "a\0b")])),
    "8.2.2-connection": reset(PROTOCOL, head(1, [("connection", "close")])),
    "8.2.2-transfer-encoding": reset(PROTOCOL, head(1, [("transfer-encoding", "chunked")])),
    "8.2.2-te": reset(PROTOCOL, head(1, [("te", "gzip")])),
    "8.3-unknown-pseudo": reset(PROTOCOL, head(1, pseudo={":other": "x"})),
    "8.3-pseudo-behind": reset(PROTOCOL, head(1, [("x", "y"), (":path", "/")])),
    "8.3-pseudo-twice": reset(PROTOCOL, head(1, [(":path", "/")])),
    "8.3-status-of-a-client": reset(PROTOCOL, block(GET, b"\x88")),
    "8.3.1-no-method": reset(PROTOCOL, head(1, pseudo={":method": None})),
    "8.3.1-no-scheme": reset(PROTOCOL, head(1, pseudo={":scheme": None})),
    "8.3.1-no-path": reset(PROTOCOL, head(1, pseudo={":path": None})),
    "8.3.1-empty-path": reset(PROTOCOL, head(1, pseudo={":path": ""})),
}

# what is odd but allowed: a request behind it is answered
LAST = 99
ODDITIES = {
    "none": once(),
    "5.1-window-on-closed": then(head(1), ANSWERED, window(1, 1)),
    "5.1-reset-on-closed": then(head(1), ANSWERED, RESET),
    "5.1-priority-on-idle": once(raw(5, 2, 0, 7, b"\0\0\0\5\x10")),
    "5.1.1-passed-over": once(head(1), head(31)),
    "5.5-unknown-frame": once(raw(3, 0x42, 0xFF, 77, b"abc")),
    "6.2-padded-and-prioritized": once(raw(8 + len(GET), 1, 0x2D, 1, b"\2\0\0\0\0\1" + GET + b"\0\0")),
    "6.5-unknown-setting": once(setting((0xABCD, 7), (4, 2**31 - 1), (5, 2**24 - 1))),
    "6.7-ack-of-no-ping": once(raw(8, 6, 1, 0, b"12345678")),
    "6.10-continuations": once(block(GET[:1], flags=1), raw(0, 9, 0, 1), raw(len(GET) - 1, 9, 4, 1, GET[1:])),
    "8.1-trailers": once(post(), data(1, 5), block(b"\x40\x01x\x01y")),
}

FLOODS = {
    f.__name__: f
    for f in (pings, settings, rapid_reset, continuations, dribble, empty_data, priorities, windows, hpack_bomb)
}


class Peer:
    def __init__(self):
        self.stream = socket.create_connection((host, port), timeout=LIMIT_S)
        self.received, self.verdict, self.seen = bytearray(), None, set()
        self.decoder = hpack.Decoder()

    def drain(self):
        while more := self.stream.recv(65536):
            self.received += more

    def say(self, piece):
        self.stream.settimeout(LIMIT_S)
        self.stream.sendall(piece)
        # a flood does not wait for answers
        self.stream.settimeout(0.0)
        try:
            self.drain()
        except BlockingIOError:
            pass
        self.judge()

    def hear(self):
        self.stream.settimeout(LIMIT_S)
        if more := self.stream.recv(65536):
            self.received += more
            self.judge()
        else:
            self.verdict = self.verdict or "closed"

    def judge(self):
        while not self.verdict and len(self.received) >= 9:
            length = int.from_bytes(self.received[:3], "big")
            if len(self.received) < 9 + length:
                return
            kind, flags, of = self.received[3], self.received[4], int.from_bytes(self.received[5:9], "big")
            payload = bytes(self.received[9 : 9 + length])
            del self.received[: 9 + length]
            self.take(kind, flags, of, payload)

    def take(self, kind, flags, of, payload):
        if kind == 7 and (code := int.from_bytes(payload[4:8], "big")):
            self.verdict = "goaway %d" % code
        # a flood goes on although its request has been answered and closed
        elif kind == 3 and name not in FLOODS and (code := int.from_bytes(payload, "big")):
            self.verdict = "reset %d" % code
        elif kind == 1:
            fields = dict(self.decoder.decode(payload))
            if of == LAST:
                self.verdict = "answer %s" % fields[":status"]
        if kind == 8 and of == 0:
            self.seen.add(READY)
        if kind in (0, 1) and flags & 1 and of == 1:
            self.seen.add(ANSWERED)


def main():
    peer = Peer()
    settings = b"" if name == "3.4-no-settings" else frame.SettingsFrame(0).serialize()
    peer.say(PREFACE + settings)
    ends = time.monotonic() + LIMIT_S
    if name in ODDITIES:
        pieces = itertools.chain(ODDITIES[name](), [head(LAST)])
    elif name in FLOODS:
        pieces = FLOODS[name]()
    else:
        pieces = (VIOLATIONS[name][1] or once(head(1)))()
    try:
        for piece in pieces:
            while isinstance(piece, str) and piece not in peer.seen and not peer.verdict:
                peer.hear()
            if isinstance(piece, bytes):
                peer.say(piece)
            if peer.verdict or time.monotonic() > ends:
                break
        while not peer.verdict:
            peer.hear()
    except (ConnectionResetError, BrokenPipeError):
        # what was said before the reset may still be there
        try:
            peer.drain()
        except OSError:
            pass
        peer.judge()
        peer.verdict = peer.verdict or "closed"
    except TimeoutError:
        pass
    print(peer.verdict or "nothing", flush=True)


if name != "list":
    main()
elif sys.argv[4] == "violations":
    print("\n".join("%s %s" % (name, wanted) for name, (wanted, _) in VIOLATIONS.items()))
    print("\n".join("%s answer 200" % name for name in ODDITIES))
else:
    print(" ".join(FLOODS))

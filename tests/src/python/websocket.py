# WebSocket (RFC 6455) by hand: a server that sends back what it gets, and a client that checks it.
import base64
import hashlib
import os
import socket
import struct
import sys
import threading

GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10
LIMIT_S = 20


class Peer:
    def __init__(self, stream, is_client):
        stream.settimeout(LIMIT_S)
        self.stream, self.file, self.is_client = stream, stream.makefile("rb"), is_client

    def head(self):
        lines = []
        while (line := self.file.readline()) not in (b"\r\n", b""):
            lines.append(line.decode("latin-1").strip())
        headers = dict(line.split(": ", 1) for line in lines[1:])
        return lines[0] if lines else "", {name.lower(): value for name, value in headers.items()}

    def exactly(self, count):
        data = self.file.read(count)
        if len(data) < count:
            raise EOFError("the stream ended within a frame")
        return data

    def frame(self):
        first, second = self.exactly(2)
        count = second & 127
        if count == 126:
            (count,) = struct.unpack(">H", self.exactly(2))
        elif count == 127:
            (count,) = struct.unpack(">Q", self.exactly(8))
        # clients mask what they send, servers do not
        assert bool(second & 128) != self.is_client
        mask = self.exactly(4) if second & 128 else bytes(4)
        return first & 15, apply(mask, self.exactly(count))

    def send(self, kind, data):
        mask_bit = 128 if self.is_client else 0
        if len(data) < 126:
            head = struct.pack(">BB", 128 | kind, mask_bit | len(data))
        elif len(data) < 65536:
            head = struct.pack(">BBH", 128 | kind, mask_bit | 126, len(data))
        else:
            head = struct.pack(">BBQ", 128 | kind, mask_bit | 127, len(data))
        mask = os.urandom(4) if self.is_client else b""
        self.stream.sendall(head + mask + (apply(mask, data) if mask else data))


def apply(mask, data):
    count = len(data)
    key = (mask * (count // 4 + 1))[:count]
    return (int.from_bytes(data, "big") ^ int.from_bytes(key, "big")).to_bytes(count, "big")


def accept_key(key):
    return base64.b64encode(hashlib.sha1(key.encode() + GUID).digest()).decode()


def serve_one(stream):
    peer = Peer(stream, is_client=False)
    _, headers = peer.head()
    if headers.get("upgrade", "").lower() != "websocket":
        stream.sendall(b"HTTP/1.1 426 Upgrade Required\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        stream.close()
        return
    answer = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    answer += f"Sec-WebSocket-Accept: {accept_key(headers['sec-websocket-key'])}\r\n\r\n"
    stream.sendall(answer.encode())
    while True:
        kind, data = peer.frame()
        peer.send(PONG if kind == PING else kind, data)
        if kind == CLOSE:
            stream.shutdown(socket.SHUT_WR)
            peer.file.read()
            stream.close()
            return


def serve(address, port):
    listener = socket.create_server((address, port))
    while True:
        stream, _ = listener.accept()
        threading.Thread(target=serve_one, args=(stream,), daemon=True).start()


def check(address, port):
    stream = socket.create_connection((address, port), LIMIT_S)
    peer = Peer(stream, is_client=True)
    key = base64.b64encode(os.urandom(16)).decode()
    ask = f"GET /chat HTTP/1.1\r\nHost: {address}\r\nUpgrade: websocket\r\nConnection: keep-alive, Upgrade\r\n"
    stream.sendall(f"{ask}Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode())
    line, headers = peer.head()
    assert line.startswith("HTTP/1.1 101"), line
    assert headers["sec-websocket-accept"] == accept_key(key), headers
    for kind, count in ((TEXT, 0), (TEXT, 125), (BINARY, 126), (BINARY, 70_000), (BINARY, 1 << 20)):
        data = os.urandom(count)
        peer.send(kind, data)
        assert peer.frame() == (kind, data), count
    peer.send(PING, b"there?")
    assert peer.frame() == (PONG, b"there?")
    peer.send(CLOSE, struct.pack(">H", 1000))
    assert peer.frame() == (CLOSE, struct.pack(">H", 1000))
    assert peer.file.read() == b"", "nothing comes behind the end"
    print("ok")


{"serve": serve, "check": check}[sys.argv[1]](sys.argv[2], int(sys.argv[3]))

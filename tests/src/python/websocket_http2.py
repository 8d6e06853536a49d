# WebSocket inside of HTTP/2 (RFC 8441) and outside: `wsproto` for its frames, `h2` and `websockets` for what carries them.
import asyncio
import json
import os
import socket
import struct
import sys
import threading
import time

import h2.config
import h2.connection
import h2.events
import h2.settings
import websockets
from wsproto.connection import Connection, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Ping, Pong, TextMessage

LIMIT_S = 30
REFUSED = b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno"
SIZES = (0, 1, 125, 126, 70_000, 1 << 20)
FLOOD_PIECE, FLOOD_PIECES = b"f" * 65536, 512
STALL_S = 2
ENABLE_CONNECT = h2.settings.SettingCodes.ENABLE_CONNECT_PROTOCOL


class Http2:
    """One end of a connection of HTTP/2; what comes on a stream is put aside for whoever waits for it."""

    def __init__(self, stream, is_client, settings=None):
        stream.settimeout(LIMIT_S)
        self.stream = stream
        # It knows no CONNECT without a path.
        lax = {"validate_inbound_headers": False, "validate_outbound_headers": False}
        config = h2.config.H2Configuration(is_client, header_encoding="utf-8", **lax)
        self.http = h2.connection.H2Connection(config)
        if settings:
            self.http.local_settings = h2.settings.Settings(client=is_client, initial_values=settings)
        self.http.initiate_connection()
        self.flush()
        self.is_greeted, self.heads, self.data, self.ends = False, {}, {}, {}

    def flush(self):
        self.stream.sendall(self.http.data_to_send())

    def read(self):
        data = self.stream.recv(65536)
        if not data:
            raise EOFError("the connection ended")
        for event in self.http.receive_data(data):
            number = getattr(event, "stream_id", None)
            if isinstance(event, h2.events.RemoteSettingsChanged):
                self.is_greeted = True
            elif isinstance(event, (h2.events.RequestReceived, h2.events.ResponseReceived)):
                self.heads[number] = dict(event.headers)
            elif isinstance(event, h2.events.DataReceived):
                self.data.setdefault(number, bytearray()).extend(event.data)
                self.http.acknowledge_received_data(event.flow_controlled_length, number)
            elif isinstance(event, h2.events.StreamEnded):
                self.ends[number] = "end"
            elif isinstance(event, h2.events.StreamReset):
                self.ends[number] = f"reset {int(event.error_code)}"
        self.flush()

    def send(self, number, data, ends=False):
        while data:
            room = min(self.http.local_flow_control_window(number), 16384, len(data))
            if room:
                self.http.send_data(number, data[:room])
                data = data[room:]
                self.flush()
            else:
                self.read()
        if ends:
            self.http.end_stream(number)
            self.flush()

    def take(self, number):
        data = bytes(self.data.get(number, b""))
        self.data[number] = bytearray()
        return data

    def open(self, path, protocol="websocket", authority="web.shop"):
        while not self.is_greeted:
            self.read()
        assert self.http.remote_settings.get(ENABLE_CONNECT) == 1, "it offers no extended CONNECT"
        number = self.http.get_next_available_stream_id()
        fields = [(":method", "CONNECT"), (":authority", authority)]
        if protocol:
            fields[1:1] = [(":protocol", protocol), (":scheme", "http"), (":path", path)]
            fields += [("sec-websocket-version", "13"), ("origin", "http://web.shop")]
        self.http.send_headers(number, fields)
        self.flush()
        while number not in self.heads and number not in self.ends:
            self.read()
        return number, self.heads.get(number, {}).get(":status", self.ends.get(number))


class WebSocket:
    """A WebSocket over a stream of HTTP/2."""

    def __init__(self, http, number):
        self.http, self.number, self.frames = http, number, Connection(ConnectionType.CLIENT)

    def send(self, event):
        self.http.send(self.number, self.frames.send(event))

    def next(self):
        held = b""
        while True:
            for event in self.frames.events():
                if isinstance(event, (TextMessage, BytesMessage)):
                    held += event.data.encode() if isinstance(event, TextMessage) else bytes(event.data)
                    if not event.message_finished:
                        continue
                    return held
                return event
            while not (data := self.http.take(self.number)):
                assert self.number not in self.http.ends, self.http.ends
                self.http.read()
            self.frames.receive_data(data)


def check2(address, port, silence_s):
    http = Http2(socket.create_connection((address, port), LIMIT_S), True)
    sockets = []
    for _ in range(3):
        number, status = http.open("/chat")
        assert status == "200", (status, http.heads)
        assert "sec-websocket-accept" not in http.heads[number], http.heads
        sockets.append(WebSocket(http, number))
    for size in SIZES:
        data = [os.urandom(size) for _ in sockets]
        for one, said in zip(sockets, data):
            one.send(BytesMessage(said))
        for one, said in zip(sockets, data):
            assert one.next() == said, size
    time.sleep(int(silence_s))
    for one in sockets:
        one.send(TextMessage("wörds"))
        assert one.next() == "wörds".encode()
        one.send(Ping(b"there?"))
        assert one.next() == Pong(b"there?")
    for one in sockets:
        one.send(CloseConnection(1000))
        assert one.next().code == 1000
        http.http.end_stream(one.number)
        http.flush()
        while one.number not in http.ends:
            http.read()
        assert http.ends[one.number] == "end", http.ends
    print("ok")


async def check1(address, port, silence_s):
    async with websockets.connect(f"ws://{address}:{port}/chat", max_size=None) as one:
        for size in SIZES:
            data = os.urandom(size)
            await one.send(data)
            assert await one.recv() == data, size
        await asyncio.sleep(int(silence_s))
        await one.send("wörds")
        assert await one.recv() == "wörds"
        await (await one.ping())
    assert one.close_code == 1000, one.close_code
    print("ok")


def slow2(address, port):
    """Asks for much, reads nothing until it is told to, and then all."""
    http = Http2(socket.create_connection((address, port), LIMIT_S), True)
    number, status = http.open("/flood")
    assert status == "200", status
    print("asked", flush=True)
    sys.stdin.readline()
    one = WebSocket(http, number)
    for _ in range(FLOOD_PIECES):
        assert one.next() == FLOOD_PIECE
    one.send(CloseConnection(1000))
    assert one.next().code == 1000
    print("ok")


def odd2(address, port, path, protocol, says):
    """Opens something and tells how it went."""
    http = Http2(socket.create_connection((address, port), LIMIT_S), True)
    number, status = http.open(path, "" if protocol == "-" else protocol, "there:1" if protocol == "-" else "web.shop")
    told = {"status": status, "reason": http.heads.get(number, {}).get("x-weir-reason"), "data": ""}
    if status == "200":
        if says in ("heard", "reset"):
            while not http.data.get(number):
                http.read()
        if says == "reset":
            http.http.reset_stream(number, 8)
            http.flush()
        else:
            http.send(number, says.encode(), ends=says != "heard")
        while number not in http.ends and says != "reset":
            http.read()
        told |= {"data": http.take(number).decode(), "end": http.ends.get(number)}
    # Others on the connection go on.
    told["other"] = http.open("/refused")[1]
    print(json.dumps(told))


def odd1(address, port, authority):
    """Opens a tunnel by HTTP/1.1, speaks ahead, and tells how it went."""
    stream = socket.create_connection((address, port), LIMIT_S)
    stream.sendall(f"CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n\r\n".encode() + b"sa")
    said = b""
    while b"\r\n\r\n" not in said:
        said += stream.recv(65536)
    head, data = said.split(b"\r\n\r\n", 1)
    told = {"status": head.split()[1].decode(), "fields": head.decode().lower().split("\r\n")[1:]}
    if told["status"] == "200":
        stream.sendall(b"id")
        stream.shutdown(socket.SHUT_WR)
    try:
        while more := stream.recv(65536):
            data += more
        told["end"] = "end"
    except ConnectionError:
        told["end"] = "reset"
    print(json.dumps(told | {"data": data.decode()}))


async def echo1(address, port):
    async def serve(one, path):
        if path == "/flood":
            for count in range(FLOOD_PIECES):
                sending = asyncio.ensure_future(one.send(FLOOD_PIECE))
                done, _ = await asyncio.wait([sending], timeout=STALL_S)
                if not done:
                    print("stalled", count * len(FLOOD_PIECE), flush=True)
                    await sending
        async for message in one:
            await one.send(message)

    async with websockets.serve(serve, address, port, max_size=None, compression=None):
        await asyncio.Future()


def odd(how, read, send, end, reset):
    """What a server does behind the opening, by path."""
    if how == "/half":
        said = b""
        while data := read():
            said += data
        send(b"late:" + said)
        end()
    elif how == "/reset":
        # A reset overtakes what was said before, so that must have been heard.
        send(b"first")
        read()
        reset()
    elif how == "/wait":
        send(b"first")
        try:
            ended = read()
            print("ended" if ended == b"" else "said", flush=True)
        except (OSError, EOFError):
            print("reset", flush=True)


def raw1_one(stream):
    from hashlib import sha1
    from base64 import b64encode

    head = b""
    while not head.endswith(b"\r\n\r\n"):
        if not (byte := stream.recv(1)):
            return
        head += byte
    lines = head.decode().split("\r\n")
    method, path, _ = lines[0].split(" ")
    fields = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines[1:] if line)}
    if method == "CONNECT":
        assert path == fields["host"], head
        path = "/half" if path == "there:1" else "/refused"
        stream.sendall(b"HTTP/1.1 200 Connected\r\n\r\n" if path == "/half" else REFUSED)
    elif path == "/refused":
        stream.sendall(REFUSED)
    else:
        assert fields["upgrade"] == "websocket" and fields["connection"].lower() == "upgrade", head
        key = "wrong" if path == "/wrong" else fields["sec-websocket-key"]
        accept = b64encode(sha1(key.encode() + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest()).decode()
        answer = f"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {accept}\r\n\r\n"
        stream.sendall(b"HTTP/1.1 101 Switching Protocols\r\n" + answer.encode())

    def reset():
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    odd(path, lambda: stream.recv(65536), stream.sendall, lambda: stream.shutdown(socket.SHUT_WR), reset)
    stream.close()


def serve2_one(stream, is_enabled):
    http = Http2(stream, False, {ENABLE_CONNECT: is_enabled})
    echoes = {}
    seen = set()
    while True:
        for number, fields in list(http.heads.items()):
            if number in seen:
                continue
            seen.add(number)
            path = fields.get(":path")
            if fields[":method"] != "CONNECT" or path == "/refused" or fields[":authority"] == "refused:1":
                http.http.send_headers(number, [(":status", "403")], end_stream=True)
                http.flush()
                continue
            if ":protocol" in fields:
                assert is_enabled and fields[":protocol"] == "websocket", fields
                assert "sec-websocket-key" not in fields, fields
            http.http.send_headers(number, [(":status", "200")])
            http.flush()
            if path == "/chat":
                echoes[number] = Connection(ConnectionType.SERVER)
                continue

            def read(number=number):
                while not (data := http.take(number)):
                    if number in http.ends:
                        if http.ends[number] != "end":
                            raise EOFError(http.ends[number])
                        return b""
                    http.read()
                return data

            def reset(number=number):
                http.http.reset_stream(number, 2)
                http.flush()

            ends = lambda number=number: http.send(number, b"", ends=True)
            odd(path or "/half", read, lambda data, number=number: http.send(number, data), ends, reset)
        for number, frames in list(echoes.items()):
            if data := http.take(number):
                echo(http, number, frames, data)
            if number in http.ends:
                del echoes[number]
                http.http.end_stream(number)
                http.flush()
        if not any(http.data.get(number) for number in echoes) and seen.issuperset(http.heads):
            http.read()


def echo(http, number, frames, data):
    frames.receive_data(data)
    for event in frames.events():
        if isinstance(event, Ping):
            http.send(number, frames.send(event.response()))
        elif isinstance(event, CloseConnection):
            http.send(number, frames.send(event.response()))
        else:
            http.send(number, frames.send(event))


def serve(address, port, one, *more):
    listener = socket.create_server((address, port))
    while True:
        stream, _ = listener.accept()

        def run(stream=stream):
            try:
                one(stream, *more)
            except (EOFError, ConnectionError, TimeoutError):
                stream.close()

        threading.Thread(target=run, daemon=True).start()


what, address, port = sys.argv[1], sys.argv[2], int(sys.argv[3])
more = sys.argv[4:]
if what in ("check1", "echo1"):
    asyncio.run({"check1": check1, "echo1": echo1}[what](address, port, *more))
elif what == "raw1":
    serve(address, port, raw1_one)
elif what == "serve2":
    serve(address, port, serve2_one, int(more[0]))
else:
    {"check2": check2, "slow2": slow2, "odd1": odd1, "odd2": odd2}[what](address, port, *more)

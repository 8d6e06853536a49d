# Clients of HTTP/2 that ask for much on many streams, and on a last one for something else if so said, open every window and then
# read nothing until they are told.
import socket
import sys

import hpack
from hyperframe import frame

LIMIT_S = 30
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
MOST = 2**31 - 1

host, port, path, connections, streams = sys.argv[1], int(sys.argv[2]), sys.argv[3], *map(int, sys.argv[4:6])
last_path = sys.argv[6] if len(sys.argv) > 6 else path


def ask():
    stream = socket.create_connection((host, port), timeout=LIMIT_S)
    settings = frame.SettingsFrame(0)
    settings.settings = {frame.SettingsFrame.INITIAL_WINDOW_SIZE: MOST}
    encoder = hpack.Encoder()
    said = PREFACE + settings.serialize() + frame.WindowUpdateFrame(0, MOST - 65535).serialize()
    fields = [(":method", "GET"), (":scheme", "http"), (":authority", "x")]
    for number in range(1, 2 * streams, 2):
        head = frame.HeadersFrame(number, encoder.encode([*fields, (":path", path if number < 2 * streams - 1 else last_path)]))
        head.flags.add("END_HEADERS")
        head.flags.add("END_STREAM")
        said += head.serialize()
    stream.sendall(said)
    return stream


asked = [ask() for _ in range(connections)]
print("asked", flush=True)
sys.stdin.readline()

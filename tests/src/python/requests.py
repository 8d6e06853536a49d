# Requests of every shape on one connection, by the standard library's client; the server says what it got.
import hashlib
import http.client
import json
import os
import sys

LIMIT_S = 20


def pieces(body):
    # an iterator makes the client send chunks
    for at in range(0, len(body), 1000):
        yield body[at : at + 1000]


address, port, rounds = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
connection = http.client.HTTPConnection(address, port, timeout=LIMIT_S)
connection.connect()
stream = connection.sock
for number in range(rounds):
    body = os.urandom(number * 97 % 40_000)
    for method, sent in (("GET", None), ("HEAD", None), ("POST", body), ("PUT", pieces(body)), ("DELETE", None)):
        connection.request(method, f"/{number}?q=%20", body=sent, headers={"Host": "x"})
        answer = connection.getresponse()
        text = answer.read()
        assert answer.status == 200, (method, answer.status, text)
        if method == "HEAD":
            assert text == b"" and int(answer.headers["content-length"]) > 0
            continue
        said = json.loads(text)
        wanted = body if method in ("POST", "PUT") else b""
        assert said == {"method": method, "bytes": len(wanted), "sha256": hashlib.sha256(wanted).hexdigest()}, said
assert connection.sock is stream, "the connection was kept"
print("ok")

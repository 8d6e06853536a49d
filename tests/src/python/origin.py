# An HTTP/1.1 server that tells each request that it took for complete, one line of JSON each. Two parsers that were not
# made by each other: h11, which is strict, and the standard library's, which is not.
import hashlib
import http.server
import json
import socket
import socketserver
import sys
import threading

READ_BYTES = 65536
LOCK = threading.Lock()


def tell(**what):
    with LOCK:
        print(json.dumps(what), flush=True)


def told(method, target, headers, body):
    text = [[name.decode("latin-1"), value.decode("latin-1")] for name, value in headers]
    digest = hashlib.sha256(body).hexdigest()
    tell(method=method, target=target, headers=text, bytes=len(body), sha256=digest)
    return json.dumps({"method": method, "bytes": len(body), "sha256": digest}).encode()


class Strict(socketserver.BaseRequestHandler):
    def handle(self):
        import h11

        self.request.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection = h11.Connection(h11.SERVER)
        try:
            while self.serve_one(h11, connection):
                connection.start_next_cycle()
        except h11.RemoteProtocolError as error:
            tell(fault=str(error))
        except OSError:
            pass

    def serve_one(self, h11, connection):
        request, body = None, b""
        while True:
            event = connection.next_event()
            if event is h11.NEED_DATA:
                if connection.they_are_waiting_for_100_continue:
                    go_on = h11.InformationalResponse(status_code=100, headers=[], reason="Continue")
                    self.request.sendall(connection.send(go_on))
                connection.receive_data(self.request.recv(READ_BYTES))
            elif isinstance(event, h11.Request):
                request = event
            elif isinstance(event, h11.Data):
                body += bytes(event.data)
            elif isinstance(event, h11.EndOfMessage):
                break
            else:
                return False
        method, target = request.method.decode(), request.target.decode("latin-1")
        answer = told(method, target, request.headers.raw_items(), body)
        # a request for a tunnel is refused, so that what follows is a request again
        head = h11.Response(
            status_code=405 if method == "CONNECT" else 200,
            headers=[("content-length", str(len(answer))), ("content-type", "application/json")],
        )
        self.request.sendall(connection.send(head))
        if method != "HEAD":
            self.request.sendall(connection.send(h11.Data(data=answer)))
        connection.send(h11.EndOfMessage())
        return connection.our_state is h11.DONE and connection.their_state is h11.DONE


class Lenient(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def __getattr__(self, name):
        if name.startswith("do_"):
            return self.serve_one
        raise AttributeError(name)

    def serve_one(self):
        try:
            body = self.body()
        except ValueError as error:
            tell(fault=str(error))
            self.close_connection = True
            return
        headers = [(n.encode("latin-1", "replace"), v.encode("latin-1", "replace")) for n, v in self.headers.items()]
        answer = told(self.command, self.path, headers, body)
        self.send_response(405 if self.command == "CONNECT" else 200)
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer)

    def body(self):
        if "chunked" not in self.headers.get("transfer-encoding", "").lower():
            return self.exactly(int(self.headers.get("content-length") or 0))
        body = b""
        while True:
            size = int(self.rfile.readline().split(b";")[0], 16)
            if size == 0:
                while self.rfile.readline() not in (b"\r\n", b"\n", b""):
                    pass
                return body
            body += self.exactly(size)
            self.rfile.readline()

    def exactly(self, count):
        body = self.rfile.read(count)
        if len(body) < count:
            raise ValueError("cut off")
        return body

    def log_message(self, *_):
        pass


class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 512

    def handle_error(self, *_):
        tell(fault=str(sys.exc_info()[1]))


kind, address, port = sys.argv[1:4]
if kind == "h11":
    import h11  # noqa: F401, tells now whether it is there
server = Server((address, int(port)), Strict if kind == "h11" else Lenient)
tell(ready=True)
server.serve_forever()

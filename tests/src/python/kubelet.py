# The kubelet's API as far as /pods goes. Arguments: PORT LIST [CERTIFICATE KEY TOKEN]; without the last three it is the
# read-only port. LIST is a file that is read for each answer.
import http.server
import ssl
import sys

port, listed, *tls = sys.argv[1:]
token = open(tls[2]).read().strip() if tls else None


class Kubelet(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        if token and self.headers.get("authorization") != "Bearer " + token:
            return self.answer(401, b"Unauthorized")
        if self.path != "/pods":
            return self.answer(404, b"404 page not found\n")
        self.answer(200, open(listed, "rb").read())

    def answer(self, status, body):
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


server = http.server.ThreadingHTTPServer(("127.0.0.1", int(port)), Kubelet)
if tls:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tls[0], tls[1])
    server.socket = context.wrap_socket(server.socket, server_side=True)
print("listening", flush=True)
server.serve_forever()

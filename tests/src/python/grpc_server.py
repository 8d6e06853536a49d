# A gRPC server without generated code: messages are bytes. Says what it sees, a line each.
import sys
import threading
import time
from concurrent import futures

import grpc

LIMIT_S = 30


# Threads tell, and a line of one must not begin within another's.
LOCK = threading.Lock()


def say(*words):
    with LOCK:
        print(*words, flush=True)


def unary(request, context):
    context.send_initial_metadata((("x-first", "1"), ("x-first-bin", b"\0\xff")))
    context.set_trailing_metadata((("x-last", "2"), ("x-last-bin", b"\xff\0")))
    sent = dict(context.invocation_metadata())
    return b"%s|%s|%s" % (request, sent.get("x-sent", "").encode(), sent.get("x-sent-bin", b""))


def fail(request, context):
    context.set_trailing_metadata((("grpc-status-details-bin", b"\x08\x05details"),))
    context.abort(grpc.StatusCode.NOT_FOUND, "gibt es nicht: \u00e4 %")


def trailers(request, context):
    context.set_trailing_metadata((("x-long", "x" * int(request)),))
    return b""


def client_stream(requests, context):
    return b"%d" % sum(len(request) for request in requests)


def server_stream(request, context):
    count, size = map(int, request.split())
    for number in range(count):
        yield b"%d" % (number % 10) * size


def echo(requests, context):
    for request in requests:
        yield request


def hang(request, context):
    # whoever gives up, and how long it was given
    left = context.time_remaining()
    is_over = threading.Event()
    context.add_callback(is_over.set)
    say("called", "%.3f" % left if left is not None and left < 1e6 else "forever")
    say("cancelled" if is_over.wait(LIMIT_S) else "left alone")
    return b""


def endless(request, context):
    # until the client has enough
    context.add_callback(lambda: say("stopped"))
    say("began")
    while True:
        yield b"x" * 1000


def give_up(request, context):
    yield b"1"
    yield b"2"
    if request == b"abort":
        context.set_trailing_metadata((("x-why-bin", b"\0\1"),))
        context.abort(grpc.StatusCode.ABORTED, "no more")
    # without a status: RST_STREAM
    context.cancel()
    yield b"3"


tried = {}


def flaky(request, context):
    # fails as often as it is told, by key
    key, count = request.split()
    tried[key] = tried.get(key, 0) + 1
    if tried[key] <= int(count):
        context.abort(grpc.StatusCode.UNAVAILABLE, "not yet")
    return b"%d" % tried[key]


class Handlers(grpc.GenericRpcHandler):
    def service(self, details):
        kinds = {
            "Unary": grpc.unary_unary_rpc_method_handler(unary),
            "Trailers": grpc.unary_unary_rpc_method_handler(trailers),
            "Fail": grpc.unary_unary_rpc_method_handler(fail),
            "Flaky": grpc.unary_unary_rpc_method_handler(flaky),
            "Hang": grpc.unary_unary_rpc_method_handler(hang),
            "ClientStream": grpc.stream_unary_rpc_method_handler(client_stream),
            "Endless": grpc.unary_stream_rpc_method_handler(endless),
            "GiveUp": grpc.unary_stream_rpc_method_handler(give_up),
            "ServerStream": grpc.unary_stream_rpc_method_handler(server_stream),
            "Echo": grpc.stream_stream_rpc_method_handler(echo),
        }
        return kinds.get(details.method.rsplit("/", 1)[1])


options = [("grpc.max_receive_message_length", 16 << 20), ("grpc.max_send_message_length", 16 << 20)]
if "pings" in sys.argv[2:]:
    # asked as often as anybody likes; the third time within minutes ends the connection otherwise
    options.append(("grpc.http2.max_ping_strikes", 0))
server = grpc.server(futures.ThreadPoolExecutor(max_workers=32), handlers=(Handlers(),), options=options)
assert server.add_insecure_port(sys.argv[1])
server.start()
say("ready")
for line in sys.stdin:
    if line.strip() == "stop":
        break
server.stop(LIMIT_S).wait()

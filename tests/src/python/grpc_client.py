# Every kind of call, by grpcio. Each function is a step of a test; says "ok" behind each.
import sys
import threading
import time

import grpc

LIMIT_S = 30
MIB = 1 << 20

options = [("grpc.max_receive_message_length", 16 * MIB), ("grpc.max_send_message_length", 16 * MIB)]
channel = grpc.insecure_channel(sys.argv[1], options=options)


def call(kind, name):
    return getattr(channel, kind)("/test.Service/" + name)


def shapes():
    metadata = (("x-sent", "s"), ("x-sent-bin", b"\0\1\xfe"))
    answer, ended = call("unary_unary", "Unary").with_call(b"hello", metadata=metadata, timeout=LIMIT_S)
    assert answer == b"hello|s|\0\1\xfe", answer
    first, last = dict(ended.initial_metadata()), dict(ended.trailing_metadata())
    assert first["x-first"] == "1" and first["x-first-bin"] == b"\0\xff", first
    assert last["x-last"] == "2" and last["x-last-bin"] == b"\xff\0", last
    pieces = [b"x" * size for size in (0, 1, 70_000, 16_384, 3)]
    said = call("stream_unary", "ClientStream")(iter(pieces), timeout=LIMIT_S)
    assert int(said) == sum(map(len, pieces)), said
    got = list(call("unary_stream", "ServerStream")(b"100 5000", timeout=LIMIT_S))
    assert got == [b"%d" % (n % 10) * 5000 for n in range(100)]
    assert list(call("stream_stream", "Echo")(iter(pieces), timeout=LIMIT_S)) == pieces


def turns():
    # each answer is awaited before the next question: nothing may be held back
    asked = threading.Semaphore(0)
    over = []

    def questions():
        for number in range(100):
            asked.acquire(timeout=LIMIT_S)
            yield b"%d" % number

    asked.release()
    for number, answer in enumerate(call("stream_stream", "Echo")(questions(), timeout=LIMIT_S)):
        assert answer == b"%d" % number
        over.append(answer)
        asked.release()
    assert len(over) == 100


def big():
    message = bytes(range(256)) * (4 * MIB // 256)
    assert list(call("stream_stream", "Echo")(iter([message] * 3), timeout=LIMIT_S)) == [message] * 3


def statuses():
    try:
        call("unary_unary", "Fail")(b"", timeout=LIMIT_S)
        raise AssertionError("no error")
    except grpc.RpcError as error:
        assert error.code() == grpc.StatusCode.NOT_FOUND, error
        assert error.details() == "gibt es nicht: \u00e4 %", error.details()
        assert dict(error.trailing_metadata())["grpc-status-details-bin"] == b"\x08\x05details"
    code_of("Missing", grpc.StatusCode.UNIMPLEMENTED)


def code_of(name, wanted, timeout=LIMIT_S):
    try:
        call("unary_unary", name)(b"", timeout=timeout)
        raise AssertionError("no error")
    except grpc.RpcError as error:
        assert error.code() == wanted, error


def deadline():
    began = time.monotonic()
    code_of("Hang", grpc.StatusCode.DEADLINE_EXCEEDED, 0.5)
    assert time.monotonic() - began < 10


def quiet():
    # nobody says a word for longer than a body may be silent
    code_of("Hang", grpc.StatusCode.DEADLINE_EXCEEDED, 4)


def cancel():
    under_way = call("unary_unary", "Hang").future(b"", timeout=LIMIT_S)
    print("waiting", flush=True)
    sys.stdin.readline()
    under_way.cancel()


def enough():
    # of a stream, which goes on at the server until it hears of that
    answers = call("unary_stream", "Endless")(b"", timeout=LIMIT_S)
    assert [len(next(answers)) for _ in range(3)] == [1000] * 3
    answers.cancel()


def given_up():
    # by the server, in the middle, with a status and without
    for how, wanted in (b"abort", grpc.StatusCode.ABORTED), (b"cancel", grpc.StatusCode.CANCELLED):
        answers, got = call("unary_stream", "GiveUp")(how, timeout=LIMIT_S), []
        try:
            for answer in answers:
                got.append(answer)
            raise AssertionError("no error")
        except grpc.RpcError as error:
            assert error.code() == wanted, error
            assert got == [b"1", b"2"] or how == b"cancel", got
            if how == b"abort":
                assert error.details() == "no more"
                assert dict(error.trailing_metadata())["x-why-bin"] == b"\0\1"


def many():
    unary = call("unary_unary", "Unary")
    calls = [unary.future(b"%d" % n, timeout=LIMIT_S) for n in range(1000)]
    assert [c.result() for c in calls] == [b"%d||" % n for n in range(1000)]


def flaky():
    key, count, wanted = sys.argv[3].encode(), sys.argv[4].encode(), sys.argv[5]
    try:
        print(call("unary_unary", "Flaky")(key + b" " + count, timeout=LIMIT_S).decode(), flush=True)
        assert wanted == "ok"
    except grpc.RpcError as error:
        assert error.code().name == wanted, error


def exhausted():
    code_of("Unary", grpc.StatusCode.RESOURCE_EXHAUSTED)


def failed():
    # not by the server, who would say NOT_FOUND
    code_of("Fail", grpc.StatusCode.UNAVAILABLE)


def steady():
    # one call after the other, until somebody says stop
    told = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.readline(), told.set()), daemon=True).start()
    while not told.is_set():
        assert call("unary_unary", "Unary")(b"x", timeout=LIMIT_S) == b"x||"


def hung():
    code_of("Hang", grpc.StatusCode.UNAVAILABLE)


def unavailable():
    code_of("Unary", grpc.StatusCode.UNAVAILABLE)


for name in sys.argv[2].split(","):
    globals()[name]()
    print("ok", name, flush=True)

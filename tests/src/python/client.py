"""The application side of the node tests: plain sockets that know nothing of Weir.

Called as `python3 -c SOURCE COMMAND ARGUMENT...`. Prints one JSON object per line; `wait()` reads a line of standard
input, so that a test can look at the machine while connections are open. Nothing waits longer than TIMEOUT.
"""
import errno
import json
import os
import resource
import socket
import struct
import sys
import threading
import time

TIMEOUT = 20.0
# A prime, so that a lost, doubled or swapped block of any usual size shows. upstream.rs has the same numbers.
PATTERN_BYTES = 65521


def make_pattern():
    out, x = bytearray(PATTERN_BYTES), 1
    for i in range(PATTERN_BYTES):
        x = (x * 1103515245 + 12345) & 0x7FFFFFFF
        out[i] = (x >> 16) & 0xFF
    return bytes(out) * 17


PATTERN = None


def pattern():
    global PATTERN
    if PATTERN is None:
        PATTERN = make_pattern()
    return PATTERN


def say(**fields):
    print(json.dumps(fields), flush=True)


def wait():
    return sys.stdin.readline().strip()


def parse(text):
    """"10.96.0.1:80" or "[fd96::1]:80" to a family and what connect() takes."""
    host, port = text.rsplit(":", 1)
    if host.startswith("["):
        return socket.AF_INET6, (host[1:-1], int(port))
    return socket.AF_INET, (host, int(port))


def show(address):
    host, port = address[0], address[1]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def name_of(error):
    if isinstance(error, socket.timeout):
        return "TIMEOUT"
    return errno.errorcode.get(getattr(error, "errno", None), type(error).__name__)


def connect(text, protocol=0, source=None, device=None):
    family, address = parse(text)
    s = socket.socket(family, socket.SOCK_STREAM, protocol)
    s.settimeout(TIMEOUT)
    try:
        if device:
            s.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, device.encode())
        if source:
            s.bind(parse(source)[1])
        s.connect(address)
    except OSError:
        s.close()
        raise
    return s


def read_line(s):
    line = bytearray()
    while not line.endswith(b"\n"):
        byte = s.recv(1)
        if not byte:
            break
        line += byte
    return line.decode().strip()


def ask_on(s, token=""):
    s.sendall(f"name {token}\n".encode())
    return read_line(s)


def send_pattern(s, count, step=PATTERN_BYTES * 16):
    data, sent = pattern(), 0
    view = memoryview(data)
    while sent < count:
        at = sent % PATTERN_BYTES
        sent += s.send(view[at:at + min(step, count - sent, PATTERN_BYTES * 16)])
    return sent


def read_pattern(s, most=None):
    """Reads to the end of the stream (or `most`): count, whether it was the pattern, and how it ended."""
    data, count, intact, ended = pattern(), 0, True, "limit"
    buffer = bytearray(1 << 19)
    view = memoryview(buffer)
    while most is None or count < most:
        want = len(buffer) if most is None else min(len(buffer), most - count)
        try:
            n = s.recv_into(view[:want])
        except OSError as error:
            ended = name_of(error)
            break
        if n == 0:
            ended = "EOF"
            break
        at = count % PATTERN_BYTES
        intact = intact and bytes(view[:n]) == data[at:at + n]
        count += n
    return {"bytes": count, "intact": intact, "ended": ended}


def reset(s):
    s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    s.close()


def ask(address, count="1", source=None):
    """Connects `count` times, one after the other; who answered, and what failed."""
    names, errors = [], []
    for i in range(int(count)):
        try:
            with connect(address, source=source) as s:
                names.append(ask_on(s, i))
        except OSError as error:
            errors.append(name_of(error))
    say(names=[n.split(" ")[0] for n in names], errors=errors,
        intact=all(n.split(" ")[-1] == str(i) for i, n in enumerate(names)) if not errors else None)


def ask_by_device(address, device):
    """Asks from a socket that is bound to a device."""
    with connect(address, device=device) as s:
        say(name=ask_on(s, 0).split(" ")[0])


def timed_connect(address):
    """How one connect, or the first read after it, ends, and how long that took."""
    began = time.monotonic()
    outcome, first = "connected", None
    try:
        with connect(address) as s:
            try:
                s.sendall(b"name x\n")
                first = read_line(s) or "EOF"
            except OSError as error:
                first = name_of(error)
    except OSError as error:
        outcome = name_of(error)
    say(connect=outcome, read=first, seconds=time.monotonic() - began)


def connect_only(address):
    """What connect() says; nothing is sent or read."""
    try:
        connect(address).close()
    except OSError as error:
        return say(connect=name_of(error))
    say(connect="connected")


def upload(address, count):
    s = connect(address)
    s.sendall(b"sink\n")
    sent = send_pattern(s, int(count))
    s.shutdown(socket.SHUT_WR)
    say(sent=sent, answer=read_line(s), end=s.recv(1).decode())


def download(address, count):
    s = connect(address)
    s.sendall(f"source {count}\n".encode())
    s.shutdown(socket.SHUT_WR)
    say(**read_pattern(s))


def trade(address, count, piece, streams):
    """Both ways at once in small pieces, each answered before the next: never bulk, so it is copied."""
    count, piece, results = int(count), int(piece), []
    data = pattern()

    def one():
        s = connect(address)
        s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        s.sendall(b"echo\n")
        done, intact = 0, True
        while done < count:
            at = done % PATTERN_BYTES
            s.sendall(data[at:at + piece])
            got = bytearray()
            while len(got) < piece:
                more = s.recv(piece - len(got))
                if not more:
                    raise OSError(errno.EPIPE, "the stream ended early")
                got += more
            intact = intact and got == data[at:at + piece]
            done += piece
        s.shutdown(socket.SHUT_WR)
        results.append((done, intact, s.recv(1) == b""))

    run_threads([one] * int(streams))
    say(bytes=sum(r[0] for r in results), intact=all(r[1] and r[2] for r in results), streams=len(results))


def run_threads(functions):
    threads = [threading.Thread(target=f, daemon=True) for f in functions]
    for t in threads:
        t.start()
    for t in threads:
        t.join()


def client_ends_first(address, count):
    """The client's FIN must not end the other direction."""
    s = connect(address)
    s.sendall(b"sink-then-source %d\n" % int(count))
    send_pattern(s, int(count))
    s.shutdown(socket.SHUT_WR)
    say(**read_pattern(s))


def server_ends_first(address, count):
    """The server's FIN must not end the other direction."""
    s = connect(address)
    s.sendall(f"source {count}\n".encode())
    first = read_pattern(s)
    sent = send_pattern(s, int(count))
    s.close()
    say(sent=sent, **first)


def server_resets(address, count):
    """Reads late, so that what came before the reset sits in somebody's buffers when the reset comes."""
    s = connect(address)
    s.sendall(f"reset {count}\n".encode())
    wait()
    say(**read_pattern(s))


def client_resets(address, count):
    s = connect(address)
    s.sendall(b"sink\n")
    send_pattern(s, int(count))
    wait()
    reset(s)
    say(done=True)


def addresses(address, protocol="0", source=None):
    """What the application sees of its connection."""
    s = connect(address, protocol=int(protocol), source=source)
    peer, own = s.getpeername(), s.getsockname()
    answer = ask_on(s, "x")
    say(peer=show(peer), own=show(own), name=answer.split(" ")[0])


def hold(address, count, tell=None):
    """Opens many connections, keeps them while the test looks, then uses each; with `tell` it speaks once before."""
    soft_limit()
    import selectors
    family, target = parse(address)
    count, failed, open_ones = int(count), {}, []
    chooser = selectors.DefaultSelector()
    began = 0
    # A few hundred at a time, as many as a busy application would have in flight.
    pending = 0
    deadline = time.monotonic() + 60
    while (began < count or pending) and time.monotonic() < deadline:
        while began < count and pending < 256:
            s = socket.socket(family, socket.SOCK_STREAM)
            s.setblocking(False)
            code = s.connect_ex(target)
            if code not in (0, errno.EINPROGRESS):
                failed[errno.errorcode.get(code, code)] = failed.get(errno.errorcode.get(code, code), 0) + 1
                s.close()
            else:
                chooser.register(s, selectors.EVENT_WRITE)
                pending += 1
            began += 1
        for key, _ in chooser.select(1.0):
            s = key.fileobj
            chooser.unregister(s)
            pending -= 1
            code = s.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if code:
                failed[errno.errorcode.get(code, code)] = failed.get(errno.errorcode.get(code, code), 0) + 1
                s.close()
            else:
                s.settimeout(TIMEOUT)
                open_ones.append(s)
    if tell:
        say(connected=len(open_ones))
    names = {}
    first = ask_all(open_ones, names)
    say(open=len(open_ones), answered=first, failed=failed, names=names)
    command = wait()
    if command == "ask":
        say(answered=ask_all(open_ones))
    elif command == "read":
        ends = {}
        for s in open_ones:
            try:
                end = "EOF" if s.recv(1) == b"" else "data"
            except OSError as error:
                end = name_of(error)
            ends[end] = ends.get(end, 0) + 1
        say(ends=ends)
    for s in open_ones:
        s.close()
    say(closed=True)


def ask_all(open_ones, names=None):
    """Asks on each before it waits for the first answer; a connection that is lost has none."""
    good = 0
    for i, s in enumerate(open_ones):
        try:
            s.sendall(f"name {i}\n".encode())
        except OSError:
            pass
    for i, s in enumerate(open_ones):
        try:
            answer = read_line(s).split(" ")
        except OSError:
            continue
        good += answer[-1] == str(i)
        if names is not None:
            names[answer[0]] = names.get(answer[0], 0) + 1
    return good


def soft_limit():
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def storm(count, threads, *targets):
    """Many connections at once to several services; TARGET is ADDRESS=NAME. Each must be answered by its own."""
    soft_limit()
    lock, wrong, errors, good = threading.Lock(), [], {}, [0]
    pairs = [t.rsplit("=", 1) for t in targets]

    def one(index):
        for i in range(int(count)):
            address, name = pairs[(index + i) % len(pairs)]
            token = f"{index}.{i}"
            try:
                with connect(address) as s:
                    answer = ask_on(s, token)
                if answer == f"{name} {token}":
                    with lock:
                        good[0] += 1
                else:
                    wrong.append([address, name, answer])
            except OSError as error:
                with lock:
                    errors[name_of(error)] = errors.get(name_of(error), 0) + 1

    run_threads([lambda i=i: one(i) for i in range(int(threads))])
    say(good=good[0], wrong=wrong[:10], errors=errors)


def load(address, threads="4"):
    """New connections without a pause until a line comes in; what became of them."""
    stop, lock, good, errors, names = threading.Event(), threading.Lock(), [0], [], {}

    def one():
        while not stop.is_set():
            try:
                with connect(address) as s:
                    name = ask_on(s, "x").split(" ")[0]
                with lock:
                    good[0] += name != ""
                    names[name] = names.get(name, 0) + 1
                    if not name:
                        errors.append("EOF")
            except OSError as error:
                with lock:
                    errors.append(name_of(error))

    def control():
        while True:
            command = wait()
            with lock:
                say(good=good[0], errors=list(errors), names=dict(names))
                names.clear()
            if command != "so far":
                stop.set()
                return

    say(started=True)
    run_threads([one] * int(threads) + [control])
    say(good=good[0], errors=errors)


def creep(address, count):
    """A download at the pace of a slow line until told to hurry: whether it was whole, and how long it stood still at most."""
    s = connect(address)
    s.sendall(f"source {count}\n".encode())
    data, got, intact, longest = pattern(), 0, True, 0.0
    hurry = threading.Event()
    threading.Thread(target=lambda: (wait(), hurry.set()), daemon=True).start()
    say(started=True)
    while got < int(count) and not hurry.is_set():
        began = time.monotonic()
        piece = s.recv(min(1 << 15, int(count) - got))
        longest = max(longest, time.monotonic() - began)
        at = got % PATTERN_BYTES
        intact = intact and piece == data[at:at + len(piece)]
        got += len(piece)
        if not piece:
            break
        hurry.wait(0.004)
    rest = 0
    while got < int(count):
        piece = s.recv(1 << 18)
        at = got % PATTERN_BYTES
        intact = intact and piece == data[at:at + len(piece)]
        got += len(piece)
        rest += len(piece)
        if not piece:
            break
    end = s.recv(1)
    say(bytes=got, intact=intact, hurried=rest, ended="EOF" if end == b"" else "more", longest_ms=int(longest * 1000))


def half_closed(address, sent, count):
    """Says all that it has to say and hears nothing of the answer before it is told to."""
    s = connect(address)
    s.sendall(f"sink-then-source {count}\n".encode())
    send_pattern(s, int(sent))
    s.shutdown(socket.SHUT_WR)
    say(sent=True)
    wait()
    say(**read_pattern(s))


def push(address, most):
    """Writes to a reader that does not read until nothing more is taken; then, when told, the rest."""
    s = connect(address)
    s.sendall(b"later\n")
    data, sent, most = memoryview(pattern()), 0, int(most)
    s.settimeout(2.0)
    try:
        while sent < most:
            at = sent % PATTERN_BYTES
            sent += s.send(data[at:at + min(PATTERN_BYTES * 4, most - sent)])
    except socket.timeout:
        pass
    say(sent=sent)
    wait()
    s.settimeout(TIMEOUT)
    while sent < most:
        at = sent % PATTERN_BYTES
        sent += s.send(data[at:at + min(PATTERN_BYTES * 4, most - sent)])
    s.shutdown(socket.SHUT_WR)
    say(sent=sent, answer=read_line(s))


def pull(address, count):
    """Asks for much and reads nothing for a while."""
    s = connect(address)
    s.sendall(f"source {count}\n".encode())
    say(asked=True)
    wait()
    s.shutdown(socket.SHUT_WR)
    say(**read_pattern(s))


def write_and_close(address, count):
    """Connect, write, close, over before anybody accepts."""
    for i in range(int(count)):
        s = connect(address)
        s.sendall(f"note {i}\n".encode())
        s.close()
    say(done=int(count))


def udp(address):
    family, target = parse(address)
    s = socket.socket(family, socket.SOCK_DGRAM)
    s.settimeout(TIMEOUT)
    s.connect(target)
    s.send(b"ping")
    answer = s.recv(100)
    say(answer=answer.decode(), peer=show(s.getpeername()))


def sleep():
    """Lives and does nothing, as the sandbox of a pod."""
    say(started=True)
    wait()


def resolve(address):
    """Makes a socket as if to ask for a name, and connects when told to."""
    with socket.socket(parse(address)[0], socket.SOCK_DGRAM):
        say(started=True)
        wait()
        ask(address)


def banner(address):
    """Says nothing before the server has."""
    s = connect(address)
    say(banner=read_line(s), answer=ask_on(s, "x"))


def stream(address):
    """An endless download; how it ended, when it has."""
    s = connect(address)
    s.sendall(b"source 1000000000000\n")
    first = read_pattern(s, 1 << 20)
    say(started=True)
    rest = read_pattern(s)
    say(ended=rest["ended"], intact=first["intact"])

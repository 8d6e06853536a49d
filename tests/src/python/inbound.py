# Both ends of connections that come to an application: the application tells whom it believes to speak with.
import json
import socket
import struct
import sys
import threading

SO_PEERNAME = 28
PROXIES = {"v1": lambda: "PROXY TCP4 192.0.2.7 192.0.2.8 1234 80\r\n".encode(), "none": lambda: b""}


# Threads tell, and a line of one must not begin within another's.
LOCK = threading.Lock()


def show(address):
    host = address[0].removeprefix("::ffff:") if "." in address[0] else address[0]
    return f"[{host}]:{address[1]}" if ":" in host else f"{host}:{address[1]}"


def named(s):
    """The peer as SO_PEERNAME tells it."""
    # as long as an address of the family: the kernel refuses more
    raw = s.getsockopt(socket.SOL_SOCKET, SO_PEERNAME, 28 if s.family == socket.AF_INET6 else 16)
    family, port = struct.unpack("=H", raw[:2])[0], struct.unpack("!H", raw[2:4])[0]
    if family == socket.AF_INET:
        return show((socket.inet_ntop(family, raw[4:8]), port))
    return show((socket.inet_ntop(family, raw[8:24]), port))


def serve(s, peer, reads_header):
    with s:
        s.settimeout(60)
        file = s.makefile("rb")
        header = file.readline().decode().strip() if reads_header else ""
        seen = {"accept": show(peer), "getpeername": show(s.getpeername()), "peername": named(s)}
        word = file.readline().decode().strip()
        s.sendall((json.dumps({**seen, "own": show(s.getsockname()), "header": header, "word": word}) + "\n").encode())
        try:
            file.read()
        except OSError:
            pass
        try:
            late = show(s.getpeername())
        except OSError:
            # a socket that was reset has no peer
            late = seen["getpeername"]
        with LOCK:
            print(json.dumps({"late": late, "early": seen["getpeername"]}), flush=True)


def application(family, port, reads_header="no"):
    listener = socket.socket(socket.AF_INET6 if family == "dual" else socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family == "dual":
        listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    listener.bind(("::" if family == "dual" else "0.0.0.0", int(port)))
    listener.listen(128)
    print(json.dumps({"listening": True}), flush=True)
    while True:
        s, peer = listener.accept()
        threading.Thread(target=serve, args=(s, peer, reads_header == "yes"), daemon=True).start()


def client(host, port, device="", header="none", count="1", holds="no"):
    """Asks so often; each says who it is and what it heard, or how it ended."""
    held = []
    for number in range(int(count)):
        s = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
        s.settimeout(30)
        heard, end = None, None
        own = None
        try:
            if device:
                s.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, device.encode())
            s.connect((host, int(port)))
            own = show(s.getsockname())
            s.sendall(PROXIES[header]() + f"word{number}\n".encode())
            line = s.makefile("rb").readline()
            heard = json.loads(line) if line else None
            end = None if line else "EOF"
        except OSError as error:
            end = type(error).__name__
        print(json.dumps({"own": own, "heard": heard, "end": end}), flush=True)
        if holds == "yes":
            held.append(s)
        else:
            s.close()
    if held:
        sys.stdin.readline()


globals()[sys.argv[1]](*sys.argv[2:])

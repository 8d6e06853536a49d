"""Connects that are not connect(): what real applications do besides."""
import ctypes
import mmap
import select

MSG_FASTOPEN = 0x20000000
TCP_FASTOPEN_CONNECT = 30


def odd(kind, address):
    s, sent = ODD[kind](address)
    s.settimeout(TIMEOUT)
    if not sent:
        s.sendall(b"name x\n")
    name = read_line(s).split(" ")[0]
    say(name=name, peer=show(s.getpeername()), own=show(s.getsockname()))


def non_blocking(address):
    family, target = parse(address)
    s = socket.socket(family, socket.SOCK_STREAM)
    s.setblocking(False)
    code = s.connect_ex(target)
    assert code in (0, errno.EINPROGRESS), errno.errorcode.get(code, code)
    assert select.select([], [s], [], TIMEOUT)[1], "never writable"
    code = s.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    assert code == 0, errno.errorcode.get(code, code)
    return s, False


def fastopen_connect(address):
    """The first connect leaves a cookie in the kernel's cache, the later ones put data into the SYN."""
    for _ in range(3):
        family, target = parse(address)
        s = socket.socket(family, socket.SOCK_STREAM)
        s.setsockopt(socket.IPPROTO_TCP, TCP_FASTOPEN_CONNECT, 1)
        s.connect(target)
        s.sendall(b"name x\n")
        last = s
    return last, True


def fastopen_sendto(address):
    """A connect within sendto()."""
    for _ in range(3):
        family, target = parse(address)
        s = socket.socket(family, socket.SOCK_STREAM)
        s.sendto(b"name x\n", MSG_FASTOPEN, target)
        last = s
    return last, True


def bind_first(address):
    """A port of the application's own choice."""
    family, target = parse(address)
    s = socket.socket(family, socket.SOCK_STREAM)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    any_address = "0.0.0.0" if family == socket.AF_INET else "::"
    s.bind((any_address, 0))
    port = s.getsockname()[1]
    s.connect(target)
    assert s.getsockname()[1] == port, "the port changed"
    return s, False


def again_after_failure(address):
    """One socket, refused at first: the second connect is what counts."""
    family, target = parse(address)
    s = socket.socket(family, socket.SOCK_STREAM)
    closed = ("127.0.0.1", 9) if family == socket.AF_INET else ("::1", 9)
    if family == socket.AF_INET6 and target[0].startswith("::ffff:"):
        closed = ("::ffff:127.0.0.1", 9)
    assert s.connect_ex(closed) == errno.ECONNREFUSED
    s.connect(target)
    return s, False


def multipath(address):
    family, target = parse(address)
    s = socket.socket(family, socket.SOCK_STREAM, 262)
    s.settimeout(TIMEOUT)
    s.connect(target)
    return s, False


class Ring:
    """Just enough io_uring (include/uapi/linux/io_uring.h) for one operation at a time."""

    def __init__(self):
        self.libc = ctypes.CDLL(None, use_errno=True)
        params = ctypes.create_string_buffer(120)
        self.fd = self.libc.syscall(425, 4, params)
        if self.fd < 0:
            raise OSError(ctypes.get_errno(), "io_uring_setup")
        words = struct.unpack("<30I", params.raw)
        self.sq_tail, self.sq_mask, self.sq_array = words[11], words[12], words[16]
        self.cq_head, self.cq_tail, self.cq_mask, self.cqes = words[20], words[21], words[22], words[25]
        sq_bytes = self.sq_array + words[0] * 4
        cq_bytes = self.cqes + words[1] * 16
        self.ring = mmap.mmap(self.fd, max(sq_bytes, cq_bytes), offset=0)
        self.sqes = mmap.mmap(self.fd, words[0] * 64, offset=0x10000000)

    def word(self, at):
        return struct.unpack_from("<I", self.ring, at)[0]

    def run(self, opcode, fd, address, offset):
        tail = self.word(self.sq_tail)
        index = tail & self.word(self.sq_mask)
        self.sqes[index * 64:index * 64 + 64] = struct.pack("<BBHiQQ40x", opcode, 0, 0, fd, offset, address)
        struct.pack_into("<I", self.ring, self.sq_array + index * 4, index)
        struct.pack_into("<I", self.ring, self.sq_tail, tail + 1)
        # IORING_ENTER_GETEVENTS: wait for the one completion
        if self.libc.syscall(426, self.fd, 1, 1, 1, None, 0) < 0:
            raise OSError(ctypes.get_errno(), "io_uring_enter")
        head = self.word(self.cq_head)
        at = self.cqes + (head & self.word(self.cq_mask)) * 16
        result = struct.unpack_from("<i", self.ring, at + 8)[0]
        struct.pack_into("<I", self.ring, self.cq_head, head + 1)
        return result


def ring_connect(address):
    family, target = parse(address)
    s = socket.socket(family, socket.SOCK_STREAM)
    packed = socket.inet_pton(family, target[0])
    if family == socket.AF_INET:
        raw = struct.pack("<H", family) + struct.pack(">H", target[1]) + packed + bytes(8)
    else:
        raw = struct.pack("<H", family) + struct.pack(">HI", target[1], 0) + packed + bytes(4)
    buffer = ctypes.create_string_buffer(raw, len(raw))
    result = Ring().run(16, s.fileno(), ctypes.addressof(buffer), len(raw))
    if result < 0:
        raise OSError(-result, "connect by io_uring")
    return s, False


ODD = {f.__name__: f for f in
       (non_blocking, fastopen_connect, fastopen_sendto, bind_first, again_after_failure, multipath, ring_connect)}

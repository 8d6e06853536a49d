"""Somebody else on this machine: kernel programs and pins that are not Weir's, a taken port.

Called as `python3 -c SOURCE COMMAND ARGUMENT...`. Says one line when it is done, and undoes it when standard input ends.
"""
import ctypes
import os
import platform
import socket
import struct
import sys

# include/uapi/linux/bpf.h
MAP_CREATE, PROG_LOAD, OBJ_PIN, LINK_CREATE = 0, 5, 6, 28
ARRAY, CGROUP_SOCK_ADDR, CONNECT4 = 2, 18, 10
SYSCALL = {"x86_64": 321, "aarch64": 280}[platform.machine()]
libc = ctypes.CDLL(None, use_errno=True)


def bpf(command, attributes):
    result = libc.syscall(SYSCALL, command, attributes, len(attributes))
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


def address(buffer):
    return ctypes.addressof(buffer)


def program(name):
    """`r0 = 1; exit`: lets every connect() pass."""
    code = ctypes.create_string_buffer(struct.pack("<BBhi", 0xB7, 0, 0, 1) + struct.pack("<BBhi", 0x95, 0, 0, 0))
    licence = ctypes.create_string_buffer(b"GPL")
    head = struct.pack("<IIQQIIQII", CGROUP_SOCK_ADDR, 2, address(code), address(licence), 0, 0, 0, 0, 0)
    return bpf(PROG_LOAD, head + struct.pack("<16sII", name.encode()[:15], 0, CONNECT4))


def attach(name, *cgroups):
    """Attaches a program to cgroups, as long as this process lives."""
    fd = program(name)
    return [bpf(LINK_CREATE, struct.pack("<IIII", fd, os.open(c, os.O_RDONLY), CONNECT4, 0)) for c in cgroups]


def pin(path):
    """Pins a map."""
    fd = bpf(MAP_CREATE, struct.pack("<IIIII", ARRAY, 4, 4, 1, 0))
    name = ctypes.create_string_buffer(path.encode())
    bpf(OBJ_PIN, struct.pack("<QII", address(name), fd, 0))


def listen(host, port):
    """Takes a port."""
    s = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    s.bind((host, int(port)))
    s.listen()
    return s


kept = globals()[sys.argv[1]](*sys.argv[2:])
print("done", flush=True)
sys.stdin.read()

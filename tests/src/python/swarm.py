# Pods that come and go: each a new network namespace and a cgroup of its own, whose first instruction is connect().
# Arguments: COUNT TOGETHER LIVES FAR CGROUP ADDRESS... ; FAR is the namespace that their cables lead to, CGROUP the folder in
# which their cgroups are made, LIVES the time in seconds that they live at most. Each pod asks each ADDRESS at once, waits for a part of
# its life, and asks again. Says {"pods", "seconds", "asked": {ADDRESS: {what became of it: how often}}}.
# With LIVES 0 they stay, asking once, until a line is read; then "started" is said before that.
import ctypes
import errno
import fcntl
import json
import os
import random
import socket
import struct
import subprocess
import sys
import time

CLONE_NEWNET = 0x40000000
SIOCGIFFLAGS = 0x8913
IFF_RUNNING = 0x40
LIMIT = 20
count, together, lives, far, above = int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]), *sys.argv[4:6]
targets = sys.argv[6:]
libc = ctypes.CDLL(None, use_errno=True)


def open_in(namespace):
    """A socket of another network namespace; this process comes back."""
    with open("/proc/self/ns/net") as home, open("/run/netns/" + namespace) as other:
        enter(other)
        found = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        enter(home)
    return found


def enter(file):
    if libc.setns(file.fileno(), CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "setns")


def await_running(of, name):
    """A cable drops what is sent before the kernel has noticed that it is plugged in, which is seconds later if there are many
    (IFF_RUNNING of netdevice(7))."""
    request = struct.pack("16sH14x", name.encode(), 0)
    while not struct.unpack_from("H", fcntl.ioctl(of, SIOCGIFFLAGS, request), 16)[0] & IFF_RUNNING:
        time.sleep(0.005)


def ip(script, *where):
    subprocess.run(["ip", *where, "-batch", "-"], input=script.encode(), check=True)


def cable(index):
    """The second byte from 79 on: neither 10.77, 10.78 nor 10.96 is met before pod 4352. Nobody has to ask for a neighbor: the
    machine has one table for all namespaces, which is full with 1,024 of them (arp(7), gc_thresh3)."""
    name, net = f"p{index}", f"10.{79 + index // 256}.{index % 256}"
    theirs, own = (f"02:00:{index // 256:02x}:{index % 256:02x}:00:0{end}" for end in (1, 2))
    ip(f"link set lo up\nlink add lan0 address {own} type veth peer name {name} address {theirs} netns {far}\n"
       f"link set lan0 up\naddr add {net}.2/24 dev lan0\nroute add default via {net}.1\n"
       f"neigh add {net}.1 lladdr {theirs} dev lan0 nud permanent\n")
    ip(f"link set {name} up\naddr add {net}.1/24 dev {name}\n"
       f"neigh add {net}.2 lladdr {own} dev {name} nud permanent\n", "-netns", far)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as near:
        await_running(near, "lan0")
    await_running(far_socket, name)


def ask(target):
    host, port = target.rsplit(":", 1)
    with socket.socket() as s:
        s.settimeout(LIMIT)
        try:
            s.connect((host, int(port)))
            s.sendall(b"name swarm\n")
            said = b""
            while not said.endswith(b"\n"):
                got = s.recv(4096)
                if not got:
                    return "EOF"
                said += got
            return said.decode().split(" ")[0]
        except socket.timeout:
            return "timeout"
        except OSError as error:
            return errno.errorcode.get(error.errno, str(error))


def pod(index, out, until):
    if libc.unshare(CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "unshare")
    cable(index)
    with open(cgroup(index) + "/app.scope/cgroup.procs", "w") as procs:
        procs.write("0")
    asked = [(target, ask(target)) for target in targets]
    if lives:
        time.sleep(random.uniform(0, lives))
        asked += [(target, ask(target)) for target in targets]
    os.write(out, json.dumps(asked).encode())
    if not lives:
        os.read(until, 1)


def cgroup(index):
    return f"{above}/kubepods-pod{index:08x}_0000_4000_8000_000000000000.slice"


def start(index, until):
    os.makedirs(cgroup(index) + "/app.scope")
    mine, theirs = os.pipe()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            os.close(mine)
            os.close(go)
            random.seed(index)
            pod(index, theirs, until)
            status = 0
        finally:
            os._exit(status)
    os.close(theirs)
    return pid, mine


def end(pid, index):
    _, status = os.waitpid(pid, 0)
    if status:
        raise SystemExit(f"pod {index} ended with {status}")
    os.rmdir(cgroup(index) + "/app.scope")
    os.rmdir(cgroup(index))


def take(mine, asked):
    said = b""
    while got := os.read(mine, 65536):
        said += got
        if not lives:
            break
    os.close(mine)
    for target, became in json.loads(said):
        of_target = asked.setdefault(target, {})
        of_target[became] = of_target.get(became, 0) + 1


far_socket = open_in(far)
asked, running, begin = {}, [], time.monotonic()
stop, go = os.pipe()
for index in range(count):
    if len(running) >= together:
        pid, mine, number = running.pop(0)
        take(mine, asked)
        end(pid, number)
    running.append((*start(index, stop), index))
if not lives:
    for _, mine, _ in running:
        take(mine, asked)
    print(json.dumps({"started": len(running), "asked": asked}), flush=True)
    sys.stdin.readline()
    os.close(go)
for pid, mine, number in running:
    if lives:
        take(mine, asked)
    end(pid, number)
print(json.dumps({"pods": count, "seconds": time.monotonic() - begin, "asked": asked}), flush=True)

#!/usr/bin/env python3
"""Holds a million idle streams on one machine, has each of them hear one broadcast, and says what it took.

A whole cluster: NATS, PostgreSQL, an event log, a fan-out, and as many gateways as it takes where a process may have
20,000 files open; beside them as many processes of listeners. All of it in namespaces of its own (network, processes,
mounts), which the kernel clears away when this script ends, however it ends.

    cargo build --release
    sudo tests/scale/million.py                        # 1,000,000
    sudo tests/scale/million.py --connections 100000   # to begin with

Needs Linux, Python 3.11, root (for the namespaces), nats-server and PostgreSQL as `cargo xtask tools` finds them, and
about 8.5 KiB of memory a stream in the kernel alone, both ends together. It gives up when less than --reserve is
available. The exit code is 0 when every stream heard the event, once.
"""

import argparse
import json
import math
import os
import pathlib
import selectors
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parents[2]
# Streams of a gateway, and of a process of listeners: below 20,000 open files, with room for what else is open.
STREAMS = 18_900
# Buckets of the table that sockets are looked up in. By default 262,144, so that two million would form chains of eight.
# Of the namespace alone.
SOCKET_BUCKETS = 4_194_304
SYSCTLS = {"net/ipv4/ip_local_port_range": "1024 65535"}
STAMP = "fb1 {:016x} {:016x}"
MIB = 1 << 20


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--connections", type=int, default=1_000_000, metavar="N")
    parser.add_argument("--gateways", type=int, metavar="N", help="by default as few as bear the streams")
    parser.add_argument("--binary", default=str(ROOT / "target/release/foghorn"), metavar="FILE")
    parser.add_argument("--size", type=int, default=256, metavar="BYTES", help="of the event's data")
    parser.add_argument("--idle", type=float, default=30, metavar="SECONDS", help="how long all are held before it")
    parser.add_argument("--patience", type=float, default=120, metavar="SECONDS", help="how long the event may take")
    parser.add_argument("--reserve", type=float, default=4, metavar="GIB", help="memory that has to stay available")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.gateways = args.gateways or math.ceil(args.connections / STREAMS)
    if not args.inside:
        enter_namespaces()
    folder = tempfile.mkdtemp(prefix="foghorn-million-")
    try:
        measure(args, pathlib.Path(folder))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def enter_namespaces():
    """Begins anew inside. The number of buckets is what the namespace above says, so there is one more around it."""
    inner = ["unshare", "--net", "--mount", "--pid", "--mount-proc", "--fork", "--kill-child", sys.executable]
    buckets = f"echo {SOCKET_BUCKETS} > /proc/sys/net/ipv4/tcp_child_ehash_entries && exec \"$@\""
    outer = ["unshare", "--net", "sh", "-c", buckets, "sh", *inner, __file__, "--inside", *sys.argv[1:]]
    os.execvp(outer[0], outer)


def fail(why):
    sys.exit(f"error: {why}")


class Memory:
    """The machine's, in bytes."""

    def __init__(self):
        text = pathlib.Path("/proc/meminfo").read_text()
        fields = (line.split() for line in text.splitlines())
        self.fields = {name.rstrip(":"): int(size) * 1024 for name, size, *_ in fields}

    @property
    def available(self):
        return self.fields["MemAvailable"]

    @property
    def kernel(self):
        return sum(self.fields[name] for name in ["Slab", "KernelStack", "PageTables"])


def slabs():
    """Bytes of each of the kernel's caches."""
    rows = (line.split() for line in pathlib.Path("/proc/slabinfo").read_text().splitlines()[2:])
    # Slabs times pages of each.
    return {row[0]: int(row[14]) * int(row[5]) * os.sysconf("SC_PAGE_SIZE") for row in rows}


def pss(processes):
    def of(process):
        rollup = pathlib.Path(f"/proc/{process.pid}/smaps_rollup").read_text()
        return next(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:")) * 1024

    return sum(of(process) for process in processes)


def cpu(processes):
    def of(process):
        fields = pathlib.Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    return sum(of(process) for process in processes)


def tool(variable, program):
    """Where the tests' tools are: as the environment says, as `cargo xtask tools` noted, or on the PATH."""
    noted = ROOT / ".tools/paths"
    lines = noted.read_text().splitlines() if noted.is_file() else []
    places = dict(line.partition("=")[::2] for line in lines)
    found = os.environ.get(variable) or places.get(variable) or shutil.which(program)
    return found or fail(f"no {program}: `cargo xtask tools` installs it, or name it in {variable}")


def start(folder, name, command, **options):
    log = open(folder / f"{name}.log", "wb")
    options = {"stdin": subprocess.DEVNULL, "stdout": log, **options}
    process = subprocess.Popen([str(part) for part in command], stderr=log, **options)
    process.log = folder / f"{name}.log"
    return process


def wait_for(what, ready, processes, patience=60):
    deadline = time.monotonic() + patience
    while not ready():
        for process in processes:
            if process.poll() is not None:
                fail(f"{what}: {process.args[0]} ended: {process.log.read_text()[-2000:]}")
        if time.monotonic() > deadline:
            fail(f"{what}: not within {patience} s")
        time.sleep(0.1)


def answers(url):
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return answer.status == 200
    except OSError:
        return False


def connects(address):
    try:
        socket.create_connection(address, timeout=5).close()
        return True
    except OSError:
        return False


def postgres(folder):
    programs = pathlib.Path(tool("FOGHORN_TEST_PG_BIN", "postgres"))
    programs = programs.resolve().parent if programs.is_file() else programs
    data = folder / "postgres"
    data.mkdir()
    # It refuses to run as root.
    shutil.chown(data, "postgres", "postgres")
    folder.chmod(0o755)
    user = {"user": "postgres", "group": "postgres", "extra_groups": [], "cwd": data}
    initdb = [programs / "initdb", "-D", data, "-U", "foghorn", "-A", "trust", "-E", "UTF8"]
    subprocess.run(initdb, check=True, stdout=subprocess.DEVNULL, **user)
    options = ["-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories="]
    server = start(folder, "postgres", [programs / "postgres", "-D", data, *options], **user)
    wait_for("PostgreSQL", lambda: connects(("127.0.0.1", 5432)), [server])
    return server


def cluster(args, folder):
    nats = [tool("FOGHORN_TEST_NATS_SERVER", "nats-server"), "-a", "127.0.0.1", "-js", "-sd", folder / "nats"]
    nats = start(folder, "nats", nats)
    wait_for("NATS", lambda: connects(("127.0.0.1", 4222)), [nats])
    database = postgres(folder)

    def service(name, command, *options):
        command = [args.binary, command, "--allow-anonymous", *options]
        return start(folder, name, command)

    eventlog = service(
        "eventlog", "eventlog", "--grpc", "127.0.0.1:50052", "--admin", "127.0.0.1:9091",
        "--postgres", "postgres://foghorn@127.0.0.1/postgres",
    )
    wait_for("the event log", lambda: answers("http://127.0.0.1:9091/readyz"), [nats, database, eventlog])
    fanout = service("fanout", "fanout", "--listen", "127.0.0.1:8080", "--admin", "127.0.0.1:9090")
    gateways = []
    for number in range(args.gateways):
        host = host_of(number)
        gateways.append(service(f"gateway-{number}", "gateway", "--listen", f"{host}:8080", "--admin", f"{host}:9090"))
    admins = ["127.0.0.1", *map(host_of, range(args.gateways))]
    for host in admins:
        wait_for(f"{host} to be ready", lambda: answers(f"http://{host}:9090/readyz"), [nats, eventlog, fanout, *gateways])
    return [nats, database, eventlog, fanout], gateways


def host_of(number):
    return f"127.0.1.{number + 1}"


class Crowd:
    """The processes of listeners."""

    def __init__(self, args, folder):
        self.processes = []
        self.selector = selectors.DefaultSelector()
        each, more = divmod(args.connections, args.gateways)
        for number in range(args.gateways):
            count = each + (number < more)
            command = [args.binary, "bench", "hold", "--server", f"{host_of(number)}:8080", "--connections", count]
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
            process = start(folder, f"listeners-{number}", command, **pipes)
            self.processes.append(process)
            self.selector.register(process.stdout, selectors.EVENT_READ, process)

    def reports(self, each_second):
        """One from everybody. `each_second` is called with those there are while it takes."""
        reports = {}
        while len(reports) < len(self.processes):
            for key, _ in self.selector.select(timeout=1):
                line = key.data.stdout.readline()
                if not line:
                    fail(f"listeners are gone: {key.data.log.read_text()[-2000:]}")
                reports[key.data.pid] = json.loads(line)
            each_second(reports)
        return list(reports.values())

    def ask(self, each_second):
        for process in self.processes:
            process.stdin.write(b"\n")
            process.stdin.flush()
        return self.reports(each_second)


def publish(args):
    data = STAMP.format(0, time.time_ns()).ljust(args.size, "x")
    body = json.dumps({"channel": "broadcast", "data": data}).encode()
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request("http://127.0.0.1:8080/api/publish", body, headers)
    with urllib.request.urlopen(request, timeout=30) as answer:
        answer.read()


def sockets():
    """TCP connections there are, both ends counted once, and what is waiting in them, in bytes."""
    line = next(l for l in open("/proc/net/sockstat") if l.startswith("TCP:")).split()
    return int(line[2]) // 2, int(line[10]) * os.sysconf("SC_PAGE_SIZE")


def metric(number, name):
    with urllib.request.urlopen(f"http://{host_of(number)}:9090/metrics", timeout=30) as answer:
        lines = answer.read().decode().splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith((name + " ", name + "{")))


def measure(args, folder):
    count = args.connections
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    for name, value in SYSCTLS.items():
        pathlib.Path("/proc/sys", name).write_text(value)
    print(f"machine       {os.cpu_count()} processors, {Memory().fields['MemTotal'] / MIB:,.0f} MiB, Linux {os.uname().release}")
    print(f"cluster       NATS, PostgreSQL, an event log, a fan-out, {args.gateways} gateways; {args.gateways} processes of listeners")
    settings = " ".join(f"{name.replace('/', '.')}='{value}'" for name, value in SYSCTLS.items())
    buckets = pathlib.Path("/proc/sys/net/ipv4/tcp_ehash_entries").read_text().strip()
    print(f"sysctls       in the namespace: {settings} tcp_ehash_entries={buckets}", flush=True)
    others, gateways = cluster(args, folder)

    def guard(_=None):
        for process in [*others, *gateways]:
            if process.poll() is not None:
                fail(f"{process.args[:2]} ended: {process.log.read_text()[-2000:]}")
        if (available := Memory().available) < args.reserve * 1024 * MIB:
            fail(f"{available / MIB:,.0f} MiB are available, less than --reserve; {sockets()[0]:,} connections were open")

    empty, empty_slabs, empty_user = Memory(), slabs(), pss(gateways)
    print(f"empty         {empty.available / MIB:,.0f} MiB available; the gateways have {empty_user / MIB:,.0f} MiB (PSS)", flush=True)

    began, before = time.monotonic(), cpu(gateways)
    crowd = Crowd(args, folder)

    told = began

    def progress(reports):
        nonlocal told
        guard()
        if time.monotonic() - told >= 10:
            told = time.monotonic()
            print(f"  {told - began:.0f} s: {sockets()[0]:,} connections, {Memory().available / MIB:,.0f} MiB available", file=sys.stderr, flush=True)

    live = sum(report["live"] for report in crowd.reports(progress))
    took = time.monotonic() - began
    print(f"open          {live:,} streams are live after {took:.0f} s; {cpu(gateways) - before:.0f} s of the gateways' CPU time")

    before, idle_began = cpu(gateways), time.monotonic()
    while time.monotonic() < idle_began + args.idle:
        time.sleep(1)
        guard()
    used = (cpu(gateways) - before) / (time.monotonic() - idle_began)
    full, user, listeners = Memory(), pss(gateways), pss(crowd.processes)
    counted = sum(metric(number, "foghorn_gateway_connections") for number in range(args.gateways))
    waiting = sockets()[1]
    print(f"idle          {counted:,.0f} streams by the gateways' count; {used:.2f} of a processor for keep-alives, after {args.idle:.0f} s")
    print(f"memory        of a stream, in bytes: gateway, user space {(user - empty_user) / count:,.0f} (PSS; {user / count:,.0f} with what {args.gateways} empty processes have)")
    print(f"              kernel {(full.kernel - empty.kernel) / count:,.0f} for both ends; {waiting / count:,.0f} in buffers; listener {listeners / count:,.0f}")
    print(f"              {(empty.available - full.available) / count:,.0f} of the machine's in all; {full.available / MIB:,.0f} MiB are left")
    grown = {name: size - empty_slabs.get(name, 0) for name, size in slabs().items()}
    most = sorted(grown.items(), key=lambda cache: -cache[1])[:8]
    print("              of the kernel's: " + ", ".join(f"{name} {size / count:,.0f}" for name, size in most), flush=True)

    before, asked = cpu(gateways), time.monotonic()
    publish(args)
    acked, lowest = time.monotonic() - asked, full.available
    while True:
        reports = crowd.ask(guard)
        heard = sum(report["deliveries"] for report in reports)
        lowest = min(lowest, Memory().available)
        if heard >= count or time.monotonic() > asked + args.patience:
            break
        time.sleep(0.2)
    used = cpu(gateways) - before
    # What comes twice comes now.
    time.sleep(5)
    reports = crowd.ask(guard)
    heard, disordered = (sum(report[figure] for report in reports) for figure in ["deliveries", "disordered"])
    first, last = (pick(report["maxMs"] for report in reports) / 1000 for pick in [min, max])
    middle = sorted(report["p50Ms"] for report in reports)[len(reports) // 2] / 1000
    print(f"broadcast     {heard:,} of {count:,} heard it, {disordered} of them out of order or twice; acked after {acked * 1000:.0f} ms")
    print(f"              half of them after {middle:.1f} s (the middle process's median), the first process's last after {first:.1f} s, the last after {last:.1f} s")
    print(f"              {used:.1f} s of the gateways' CPU time: {heard / max(used, 0.01):,.0f} deliveries a CPU second; at least {lowest / MIB:,.0f} MiB were available")
    if heard != count or disordered or counted != count:
        fail("not everybody heard it once")


main()

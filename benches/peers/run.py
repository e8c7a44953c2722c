"""Lets one peer drain a filled queue, measures it and checks what it left, for `scripts/peers`.

Prints one line: events a second, CPU microseconds an event, peak MiB. A peer says "consuming" when
it begins and "stored N" for each batch; this reads along every 10 ms, as the bench does with the
worker's own counters. It must never print a figure of a peer whose table or sets are wrong.
"""

import argparse
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pika
import psycopg
import redis

HERE = Path(__file__).parent
BIN = Path(sys.executable).parent
POLL_SECS = 0.01
LONGEST_SECS = 300
GRACE_SECS = 0.5
# Without a word for so long, a peer that was killed once is taken to be done.
IDLE_SECS = 3
TICKS = os.sysconf("SC_CLK_TCK")

# Without the chatter between workers, to which nobody listens. solo: a batch is one task, so there
# is nothing for a pool to share out, and no pickling on the way to it.
CELERY = [str(BIN / "celery"), "--app", "celery_worker", "worker", "--hostname", "PROCESS@%h",
          "--loglevel", "WARNING", "--pool", "solo", "--concurrency", "1", "--without-gossip",
          "--without-mingle", "--without-heartbeat"]
PEERS = {
    "demo": [sys.executable, "demo.py"],
    "careful": [sys.executable, "careful.py"],
    "celery": CELERY,
    # Beside its packages, where scripts/peers puts it: that is where Node looks for them.
    "node": ["node", str(BIN.parents[1] / "node/worker.js")],
}


def family(pid):
    """A process and all that descend from it."""
    children = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rsplit(") ", 1)[1].split()
        except OSError:
            continue
        children.setdefault(int(fields[1]), []).append(int(stat.parent.name))
    found = [pid]
    for process in found:
        found.extend(children.get(process, []))
    return found


def cpu_seconds(pid):
    """User and system time so far, without children that have ended."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def peak_mib(pid):
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


class Process:
    """One process of a peer, and its children."""

    def __init__(self, command, environment):
        # A session of its own: none of them outlives this.
        self.child = subprocess.Popen(command, cwd=HERE, env=environment, stdin=subprocess.DEVNULL,
                                      stdout=subprocess.PIPE, start_new_session=True)
        os.set_blocking(self.child.stdout.fileno(), False)
        self.rest = b""
        self.cpu_before = None
        self.stored = 0

    def listen(self):
        """Reads what it has said since; True if it said anything."""
        said = self.child.stdout.read() or b""
        *lines, self.rest = (self.rest + said).split(b"\n")
        for line in lines:
            if line == b"consuming":
                self.cpu_before = self.cpu_seconds()
            elif line.startswith(b"stored "):
                self.stored += int(line[7:])
        if self.child.poll() is not None:
            raise SystemExit(f"run: {self.child.args} ended with {self.child.returncode}")
        return bool(lines)

    def cpu_seconds(self):
        return sum(map(cpu_seconds, family(self.child.pid)))

    def peak_mib(self):
        return sum(map(peak_mib, family(self.child.pid)))

    def end(self, with_signal):
        if self.child.poll() is None:
            self.child.send_signal(with_signal)
            try:
                self.child.wait(10)
            except subprocess.TimeoutExpired:
                pass
        try:
            os.killpg(self.child.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.child.wait()


def start(peer, queue, count):
    environment = {**os.environ, "PEER_QUEUE": queue}
    commands = [[part.replace("PROCESS", str(n)) for part in PEERS[peer]] for n in range(count)]
    return [Process(command, environment) for command in commands]


def listen_until(processes, done):
    """Until `done()`, asked whenever anything was said. Returns the seconds of consuming."""
    began = first = time.monotonic()
    consuming = False
    while True:
        if any([process.listen() for process in processes]):
            if not consuming and any(p.cpu_before is not None for p in processes):
                consuming, first = True, time.monotonic()
            if done():
                return time.monotonic() - first
        if time.monotonic() - began > LONGEST_SECS:
            raise SystemExit(f"run: not drained within {LONGEST_SECS} s")
        time.sleep(POLL_SECS)


def stored(processes):
    return sum(process.stored for process in processes)


def measure(processes, events):
    seconds = listen_until(processes, lambda: stored(processes) >= events)
    before = sum(p.cpu_before or 0 for p in processes)
    cpu = sum(p.cpu_seconds() for p in processes) - before
    peak = sum(p.peak_mib() for p in processes)
    # Celery says that a batch is stored, and acks it then.
    time.sleep(GRACE_SECS)
    return f"{events / seconds:.1f} {cpu * 1e6 / events:.2f} {peak:.1f}"


def survive_a_kill(processes, start_again, events):
    """Killed at half time, and started again. What it says no longer adds up: until it is quiet."""
    listen_until(processes, lambda: stored(processes) >= events // 2)
    for process in processes:
        process.end(signal.SIGKILL)
    processes[:] = start_again()
    heard = time.monotonic()
    while time.monotonic() - heard < IDLE_SECS:
        if any([process.listen() for process in processes]):
            heard = time.monotonic()
        time.sleep(POLL_SECS)
    return f"killed at half time: {stored(processes)} after that, of {events} in all"


def check(queue, events):
    """Each event once, each set what the table says, nothing left in the queue."""
    wrong = []
    broker = pika.BlockingConnection(pika.URLParameters(os.environ["AMQP_URL"])).channel()
    for _ in range(100):
        answer = broker.queue_declare(queue, passive=True).method
        if answer.consumer_count == 0:
            break
        time.sleep(0.05)
    if answer.consumer_count or answer.message_count:
        wrong.append(f"{answer.message_count} messages were not acked")
    sets = redis.Redis.from_url(os.environ["REDIS_URL"], decode_responses=True)
    with psycopg.connect(os.environ["DATABASE_URL"]) as postgres:
        [(rows, right)] = postgres.execute("""
            SELECT count(*), count(*) FILTER (
                WHERE payload->>'id' = id::text
                  AND (payload->>'occurred_at')::timestamptz = occurred_at
                  AND payload ?& ARRAY['state', 'city', 'username', 'text'])
            FROM events""")
        if (rows, right) != (events, events):
            wrong.append(f"{rows} rows, {right} of them right, for {events} events")
        for key, member in [("messages:cities", "(payload->>'state') || ':' || (payload->>'city')"),
                            ("messages:users", "payload->>'username'")]:
            distinct = {row[0] for row in postgres.execute(f"SELECT DISTINCT {member} FROM events")}
            members = sets.smembers(key)
            if members != distinct:
                missing, phantom = len(distinct - members), len(members - distinct)
                wrong.append(f"{key}: {missing} members missing, {phantom} phantom")
    if wrong:
        raise SystemExit("run: " + "; ".join(wrong))


def main():
    arguments = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    arguments.add_argument("peer", choices=PEERS)
    arguments.add_argument("queue")
    arguments.add_argument("events", type=int, help="different ones in the queue")
    arguments.add_argument("--processes", type=int, default=1)
    arguments.add_argument("--kill", action="store_true",
                           help="kill it at half time, start it again, check; no figures")
    given = arguments.parse_args()

    def start_again():
        return start(given.peer, given.queue, given.processes)

    processes = start_again()
    try:
        if given.kill:
            figures = survive_a_kill(processes, start_again, given.events)
        else:
            figures = measure(processes, given.events)
        for process in processes:
            process.end(signal.SIGTERM)
    finally:
        for process in processes:
            process.end(signal.SIGKILL)
    check(given.queue, given.events)
    print(figures)


main()

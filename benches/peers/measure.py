"""What a job took: wall time from its first request to its last written byte, CPU time and memory of all its processes.

Setup (interpreter, imports, engines and sessions) is told apart. CPU seconds are those of the process and all its descendants during the
job; memory is the largest sum of their proportional set sizes, so that what processes share counts once.
"""
import json
import os
import threading
import time

TICK = os.sysconf("SC_CLK_TCK")
INTERVAL = 0.25


def stat(pid):
    """(parent, start in ticks, CPU ticks) of a process, or None when it is gone."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            fields = file.read().rpartition(")")[2].split()
    except OSError:
        return None
    return int(fields[1]), int(fields[19]), int(fields[11]) + int(fields[12])


def family(root):
    """A process and all its descendants: {(pid, start): CPU ticks}."""
    every = {pid: found for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if (found := stat(pid))}
    children = {}
    for pid, (parent, _, _) in every.items():
        children.setdefault(parent, []).append(pid)
    result, todo = {}, [root]
    while todo:
        pid = todo.pop()
        if pid in every:
            result[pid, every[pid][1]] = every[pid][2]
            todo += children.get(pid, [])
    return result


def memory(pids):
    total = 0
    for pid in pids:
        try:
            with open(f"/proc/{pid}/smaps_rollup") as file:
                total += sum(int(line.split()[1]) for line in file if line.startswith("Pss:")) * 1024
        except OSError:
            pass  # it ended
    return total


class Meter:
    """`begin` when everything is set up, `end` when the last result is written."""

    def __init__(self):
        self.ticks, self.history, self.peak, self.done = {}, [], 0, threading.Event()
        with open("/proc/uptime") as uptime:
            self.born = time.time() - (float(uptime.read().split()[0]) - stat(os.getpid())[1] / TICK)
        self.sampler = threading.Thread(target=self.sample, daemon=True)

    def look(self):
        now = family(os.getpid())
        self.ticks.update(now)
        self.history.append((time.time(), sum(self.ticks.values()) / TICK))
        return now

    def sample(self):
        count = 0
        while not self.done.wait(INTERVAL):
            now = self.look()
            if count % 4 == 0:
                self.peak = max(self.peak, memory(pid for pid, _ in now))
            count += 1

    def begin(self):
        self.look()
        self.began = time.time()
        self.sampler.start()

    def began_later(self, at):
        """What came before that time of `time.time()` was setup after all."""
        self.began = at

    def end(self):
        self.ended = time.time()
        now = self.look()
        self.done.set()
        self.sampler.join()
        self.peak = max(self.peak, memory(pid for pid, _ in now))

    def report(self, peer, workload, records):
        before = max(cpu for when, cpu in self.history if when <= self.began)
        print(json.dumps({"peer": peer, "workload": workload, "records": records, "setup_seconds": round(self.began - self.born, 3),
                          "seconds": round(self.ended - self.began, 3), "cpu_seconds": round(self.history[-1][1] - before, 2),
                          "peak_bytes": self.peak}), flush=True)

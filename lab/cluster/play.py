"""One round: clients at work, one fault, the way back, and a judgement of everything."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

from labkit import admin
from labkit.history import judge, longest_gap
from labkit.paths import wait_until

from faults import Scene
from net import BROKERS

HERE = Path(__file__).parent
LOAD_PARTITIONS = 6
RECOVERY_S = 60
WORKING_S = 20  # a cluster that says that it is whole, and then takes longer to acknowledge anything, was not


class Client:
    """A running client.py, and its events so far."""

    def __init__(self, path, role, bootstrap, topic, *more):
        self.path, self.events = path, []
        self.process = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", sys.executable, str(HERE / "client.py"), role, bootstrap, topic, str(path),
             *map(str, more)], stdin=subprocess.PIPE, stderr=open(path.with_suffix(".err"), "w"), env={**os.environ})
        self.at, self.rest = 0, b""

    def read(self):
        """Takes what was written since, and gives all."""
        if self.path.exists():
            with open(self.path, "rb") as file:
                file.seek(self.at)
                data = file.read()
            self.at += len(data)
            *lines, self.rest = (self.rest + data).split(b"\n")
            self.events += map(json.loads, lines)
        return self.events

    def times(self, kind):
        return [event[1] for event in self.read() if event[0] == kind]

    def alive(self):
        return self.process.poll() is None

    def end(self, seconds=150):
        """Lets it finish: all its events."""
        if self.alive():
            self.process.stdin.close()
            try:
                self.process.wait(seconds)
            except subprocess.TimeoutExpired:
                self.kill()
        return self.read()

    def kill(self):
        self.process.kill()
        self.process.wait(10)


def play(cluster, network, name, fault, number, work, acks="all"):
    """The outcome of one round as a dictionary; `wrong` lists what must not be. `acks` is the load's."""
    probe_topic, load_topic = f"probe-{name}-{number}", f"load-{name}-{number}"
    outcome = {"fault": name, "peer": cluster.name, "round": number, "wrong": []}
    wrong, clients = outcome["wrong"], []

    def client(label, *arguments):
        clients.append(Client(work / f"{cluster.name}-{name}-{number}-{label}.jsonl", *arguments))
        return clients[-1]

    try:
        scene = set_scene(cluster, network, fault, probe_topic, load_topic)
        boot, timeout = cluster.bootstrap, ("--delivery-timeout-ms", fault.delivery_timeout_ms)
        load = client("load", "produce", boot, load_topic, "--keys", 24, "--every-ms", 5, "--acks", acks, *timeout)
        probe = client("probe", "produce", boot, probe_topic, "--every-ms", 25, *timeout)
        members = [client(m, "consume", boot, load_topic, "--group", load_topic, "--member", m) for m in ("m1", "m2")]
        wait_for_work(lambda: idle(probe, load, members, 0), WORKING_S, "clients of a whole cluster being at work")

        began = time.monotonic()
        fault.strike(scene)
        time.sleep(1)  # what is in flight comes to its end or does not
        try:
            back = wait_until(lambda: flowing(probe), RECOVERY_S, "the probe's acknowledgements", every=0.1)
            outcome["back_s"] = round(back - began, 3)
        except AssertionError as error:
            wrong.append(str(error))
        fault.mend(scene)
        cluster.wait_whole()
        mended = time.monotonic()
        wait_for_work(lambda: idle(probe, load, [], mended), RECOVERY_S, "acknowledgements afterwards")
        time.sleep(1.5)  # a broker that is back may yet take its partitions back
        ended = time.monotonic()

        outcome["gap_s"] = round(longest_gap(probe.times("acked"), began, ended), 3)
        events = probe.end() + load.end()
        log = {(topic, p): [(offset, key.decode(), int(value.split(b":")[0])) for offset, key, value in rows]
               for topic, count in ((probe_topic, 1), (load_topic, LOAD_PARTITIONS))
               for p, rows in admin.read_all(boot, topic, count, seconds=60).items()}
        total = sum(len(rows) for (topic, _), rows in log.items() if topic == load_topic)
        try:
            wait_until(lambda: len({tuple(e[4:6]) for m in members for e in m.read() if e[0] == "seen"}) >= total, 60,
                       "the group having read everything", every=0.3)
        except AssertionError as error:
            wrong.append(str(error))
        for m in members:
            events += m.end(20)
        wrong += judge(events, log, [load_topic])
        failed = [e for e in events if e[0] == "failed"]
        if failed and not fault.may_fail:
            wrong.append(f"{len(failed)} produces failed, first {failed[0][3:]}")
        wrong += [f"a client could not go on: {e[2:]}" for e in events if e[0] in ("fatal", "stuck")]
        outcome.update(acked=sum(e[0] == "acked" for e in events), failed=len(failed), read=sum(map(len, log.values())),
                       seen=sum(e[0] == "seen" for e in events), committed=sum(e[0] == "committed" for e in events))
    except Exception as error:  # noqa: BLE001 - a round that breaks is an outcome, the next one is tried
        wrong.append(f"{type(error).__name__}: {error}")
    finally:
        for one in clients:
            one.kill()
    return outcome


def idle(probe, load, members, since):
    """Who is not at work since then, in words; nothing when all are."""
    acked = [event[5] for event in load.read() if event[0] == "acked" and event[1] > since]
    found = [f"nothing of load-{p} is acknowledged" for p in range(LOAD_PARTITIONS) if p not in acked]
    found += [f"{m.path.stem} {what} nothing" for m in members
              for what, kind in (("sees", "seen"), ("commits", "committed")) if not m.times(kind)]
    found += [f"acknowledgements of the {what} do not flow" for what, p in (("probe", probe), ("load", load)) if not flowing(p)]
    return found


def wait_for_work(missing, seconds, what):
    """Waits until `missing` gives nothing; else says what it gave last."""
    last = []

    def done():
        last[:] = missing()
        return not last

    try:
        wait_until(done, seconds, what, every=0.1)
    except AssertionError as error:
        raise AssertionError(f"{error}: {', '.join(last)}") from None


def flowing(producer):
    """When the last second began, if it had acknowledgements all through it."""
    now = time.monotonic()
    recent = [t for t in producer.times("acked") if t > now - 1]
    return now - 1 if recent and longest_gap(recent, now - 1, now) < 0.4 else None


def set_scene(cluster, network, fault, probe_topic, load_topic):
    """Topics of this round, the probe's led by whom the fault wants."""
    cluster.wait_whole()
    controller = cluster.controller()
    leader = controller if fault.leads else 1 + controller % len(BROKERS)
    cluster.create(probe_topic, [[leader, *(b for b in BROKERS if b != leader)]])
    cluster.create(load_topic, [[1 + (p + i) % 3 for i in range(3)] for p in range(LOAD_PARTITIONS)])
    cluster.leader(load_topic)
    seen = cluster.leader(probe_topic), cluster.controller()
    if seen != (leader, controller):
        raise AssertionError(f"leader and controller are {seen}, not {(leader, controller)}, before any fault")
    return Scene(cluster, network, leader, controller)

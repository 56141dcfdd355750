"""What is done to a cluster, and what its probe may show of it.

A fault is `strike(scene)`, and `mend(scene)` when clients have found their way.
The scene names the cluster, the network, the probe partition's leader and the
active controller, as they were before.
"""

import os
import time
from dataclasses import dataclass

from confluent_kafka import Producer

from nodes import SESSION_TIMEOUT_S

FILLING_S = 15


@dataclass
class Scene:
    cluster: object
    network: object
    leader: int
    controller: int
    filler: str = ""  # the topic that has filled a disk

    def node(self, number):
        return self.cluster.nodes[number]


@dataclass
class Fault:
    what: str
    strike: object
    mend: object
    leads: bool = False  # the probe's leader is to be the active controller as well
    under_s: float | None = None  # the bar: the longest gap of acknowledgements
    of_peer: float | None = None  # and the median, as a part of Apache Kafka's
    delivery_timeout_ms: int = 120000
    may_fail: bool = True  # whether a produce may be given up


def kill_leader(scene):
    scene.node(scene.leader).kill()


def kill_controller(scene):
    scene.node(scene.controller).kill()


def start_again(scene):
    for node in scene.cluster.nodes.values():
        if not node.alive():
            node.start()
            node.wait_ready()


def rolling(scene):
    for node in scene.cluster.nodes.values():
        node.stop()
        node.start()
        node.wait_ready()
        scene.cluster.wait_whole()


def fill(scene):
    """The leader's disk, and then whatever room the broker had set aside, by a topic that only it has."""
    node, topic = scene.node(scene.leader), f"filler-{time.monotonic_ns()}"
    scene.filler = topic
    scene.cluster.create(topic, [[scene.leader]])
    scene.cluster.leader(topic, replicas=1)
    node.fill()
    refused = []
    producer = Producer({"bootstrap.servers": scene.cluster.bootstrap, "acks": 1, "log_level": 0, "linger.ms": 5,
                         "delivery.timeout.ms": 3000, "socket.timeout.ms": 1500, "message.max.bytes": 1000000})
    until = time.monotonic() + FILLING_S
    while not refused and time.monotonic() < until:
        try:
            producer.produce(topic, os.urandom(500_000), partition=0, on_delivery=lambda error, _: error and refused.append(error))
        except BufferError:
            pass
        producer.poll(0.01)
    producer.purge()
    if not refused and node.alive():
        raise AssertionError(f"the disk of broker {scene.leader} took records for {FILLING_S} s although it was full")


def drain(scene):
    """Room again; a broker that went, or that gave its disk up, is started again."""
    node = scene.node(scene.leader)
    node.drain()
    node.kill()
    start_again(scene)
    # Or the next round has less room, and some round none.
    scene.cluster.delete(scene.filler)


def on_network(how):
    return lambda scene: getattr(scene.network, how)(scene.leader)


def heal(scene):
    scene.network.heal()


SILENT_S = SESSION_TIMEOUT_S + 1
FAULTS = {
    "leader": Fault("the leader is killed with -9", kill_leader, start_again, under_s=2, of_peer=0.5),
    "leader-controller": Fault("the leader, the active controller as well, is killed with -9", kill_leader, start_again,
                               leads=True, under_s=6, of_peer=1),
    "controller": Fault("the active controller, a follower, is killed with -9", kill_controller, start_again),
    "stop": Fault("the leader is stopped (SIGSTOP) and goes on (SIGCONT)", lambda s: s.node(s.leader).pause(),
                  lambda s: s.node(s.leader).resume(), under_s=SILENT_S),
    "cut": Fault("the leader's network is cut, both ways", on_network("cut"), heal, under_s=SILENT_S),
    "deaf": Fault("nothing reaches the leader", on_network("deafen"), heal, under_s=SILENT_S),
    "mute": Fault("nothing of the leader arrives", on_network("mute"), heal, under_s=SILENT_S),
    "split": Fault("the leader is cut from the brokers, not from clients", on_network("split"), heal),
    "full": Fault("the leader's disk is full", fill, drain),
    "rolling": Fault("all three are restarted in turn (SIGTERM)", rolling, lambda s: None, under_s=1,
                     delivery_timeout_ms=10000, may_fail=False),
}

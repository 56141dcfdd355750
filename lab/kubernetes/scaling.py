"""Cases in which brokers come and go."""

import json
import time

from kube import Failed, Traffic, Watch, expect, run, until
from objects import cluster, holder, holders, replicas, topic, voters, well


def racks(space):
    """Brokers are in the zones that the spec names, one in each, and so are the replicas of a partition."""
    zones = {node["metadata"]["name"]: node["metadata"]["labels"]["topology.kubernetes.io/zone"] for node in json.loads(run("kubectl", "get", "nodes", "-o", "json").stdout)["items"]}
    space.apply(cluster("racked", replicas=2, voters=1, deletionPolicy="Delete", racks={"values": ["z3", "z1"]}))
    space.is_("tmc", "racked", "Reconciled", "True", 180)
    at = lambda: {pod["metadata"]["name"]: zones[pod["spec"]["nodeName"]] for pod in space.get("pods") if pod["metadata"]["name"].startswith("racked-")}
    expect("zones of brokers", at(), {"racked-0-0": "z3", "racked-1-0": "z1"})
    replicas(space, "racked", 4)
    space.is_("tmc", "racked", "Reconciled", "True", 180)
    expect("zones of brokers", at(), {"racked-0-0": "z3", "racked-1-0": "z1", "racked-2-0": "z3", "racked-3-0": "z1"})
    space.tidemark("racked", "topic", "create", "wide", "-p", "8", "-r", "2")
    rows = json.loads(space.tidemark("racked", "-o", "json", "topic", "describe", "wide").stdout)["partitions"]
    together = [row["replicas"] for row in rows if len({id_ % 2 for id_ in row["replicas"]}) < 2]
    expect("partitions in one zone", together, [])
    space.kubectl("delete", "tmc", "racked")


def scale_up(space):
    """A fourth broker comes, without a vote, and restarts nobody."""
    before = space.pods()
    pools = space.get("tmc", "orders")["spec"]["pools"]
    pools[0]["replicas"] = 4
    space.patch("tmc", "orders", {"spec": {"pools": pools}})
    well(space)
    after = space.pods()
    expect("brokers", sorted(after), ["orders-0-0", "orders-1-0", "orders-2-0", "orders-3-0"])
    expect("those that were there", {n: after[n] for n in before}, before)
    quorum = space.tidemark("orders", "-o", "json", "cluster", "quorum", "describe").stdout
    expect("voters", len([r for r in json.loads(quorum)["replicas"] if r["role"] != "observer"]), 3)


def scale_down(space):
    """From 5 to 3 with data and under load: nothing is lost, nobody else restarts, and the claims stay."""
    replicas(space, "orders", 5)
    well(space)
    space.apply(topic("spread", partitions=10, replicas=3))
    space.is_("tmt", "spread", "Synced", "True")
    expect("brokers that hold the topic", holders(space, "spread"), [0, 1, 2, 3, 4])
    stay = {n: p for n, p in space.pods().items() if n in ("orders-0-0", "orders-1-0", "orders-2-0")}
    with Traffic(space, "orders", "spread"):
        time.sleep(2)
        replicas(space, "orders", 3)
        # The operator is killed again and again; each goes on where the last one stopped.
        for _ in range(3):
            time.sleep(5)
            run("kubectl", "-n", "tidemark-system", "delete", "pod", holder(), "--grace-period=0", "--force", check=False)
        well(space, 300)
    expect("pods", space.pods(), stay)
    expect("brokers that hold the topic", holders(space, "spread"), [0, 1, 2])
    expect("ready", space.get("tmc", "orders")["status"]["ready"], "3/3")
    left = [o["metadata"]["name"] for kind in ("sts", "svc", "configmap") for o in space.get(kind) if o["metadata"]["name"] in ("orders-3", "orders-4")]
    expect("what is left of those that went", left, [])
    claims = [c["metadata"]["name"] for c in space.get("pvc")]
    expect("their claims", [c for c in claims if c in ("orders-3-data", "orders-4-data")], ["orders-3-data", "orders-4-data"])
    brokers = json.loads(space.tidemark("orders", "-o", "json", "cluster", "describe").stdout)["brokers"]
    expect("registered brokers", sorted(b["id"] for b in brokers), [0, 1, 2])
    # A kept disk is used again.
    replicas(space, "orders", 4)
    well(space)
    expect("brokers", len(space.pods()), 4)


def scale_down_voter(space):
    """A voter that is named goes: another one votes before, and Ready stays True."""
    before, controller = space.pods(), space.get("tmc", "orders")["status"]["controller"]
    expect("voters", voters(space), [0, 1, 2])
    space.apply(topic("spread-of-voter", partitions=10, replicas=3))
    space.is_("tmt", "spread-of-voter", "Synced", "True")
    with Watch(space) as watch, Traffic(space, "orders", "spread-of-voter"):
        replicas(space, "orders", 3, remove=[controller])
        well(space, 300)
    stay = [id_ for id_ in range(4) if id_ != controller]
    expect("voters", voters(space), stay)
    after = space.pods()
    expect("brokers", sorted(after), [f"orders-{id_}-0" for id_ in stay])
    restarted = [name for name in after if after[name] != before[name]]
    expect("brokers that were restarted", restarted, ["orders-3-0"])
    expect("moments without Ready", watch.unavailable, [])
    replicas(space, "orders", 4)
    well(space)
    expect("voters", voters(space), stay)


def scale_down_blocked(space):
    """Topics with three replicas keep three brokers, and are named; nothing is touched until they go."""
    space.apply(cluster("small", replicas=3, voters=1, deletionPolicy="Delete", storage={"onScaleDown": "Delete"}))
    space.is_("tmc", "small", "Reconciled", "True")
    space.tidemark("small", "topic", "create", "wide", "-p", "3", "-r", "3")
    pods = space.pods("small")
    replicas(space, "small", 2)
    space.is_("tmc", "small", "Reconciled", "ScaleDownBlocked")
    message = space.get("tmc", "small")["status"]["message"]
    if "wide" not in message:
        raise Failed(f"the topic is not named: {message}")
    time.sleep(5)
    expect("pods", space.pods("small"), pods)
    space.tidemark("small", "topic", "delete", "wide", "--execute")
    space.is_("tmc", "small", "Reconciled", "True", 180)
    expect("brokers", sorted(space.pods("small")), ["small-0-0", "small-1-0"])
    until("its claim is gone", 60, lambda: "small-2-data" not in [c["metadata"]["name"] for c in space.get("pvc")])
    space.kubectl("delete", "tmc", "small")


def scale_down_reversed(space):
    """A broker that was to go stays after all, in the middle of it: nothing is stopped, and it may have replicas again."""
    before = space.pods()
    # So many that moving them takes longer than changing one's mind.
    space.apply(topic("many", partitions=240, replicas=3))
    space.is_("tmt", "many", "Synced", "True")
    # One without a vote: another one would be restarted to vote in its place, and back.
    last = next(id_ for id_ in range(4) if id_ not in voters(space))
    replicas(space, "orders", 3, remove=[last])
    until("a broker that leaves", 60, lambda: "tidemark.dev/leaving" in space.get("pvc", f"orders-{last}-data")["metadata"]["annotations"])
    replicas(space, "orders", 4)
    well(space)
    expect("pods", space.pods(), before)
    expect("marks", "tidemark.dev/leaving" in space.get("pvc", f"orders-{last}-data")["metadata"]["annotations"], False)
    space.tidemark("orders", "topic", "create", "after", "-p", "8", "-r", "3")
    if last not in holders(space, "after"):
        raise Failed(f"broker {last} gets no new replicas")
    space.kubectl("delete", "tmt", "many")
    space.tidemark("orders", "topic", "delete", "many", "--execute")

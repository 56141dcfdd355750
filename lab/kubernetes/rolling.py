"""Cases about when brokers are restarted, and what a restart waits for."""

import contextlib
import datetime
import pathlib
import time

from kube import IMAGE, Failed, Watch, expect, run, until
from objects import REPO, cluster, holder, traffic, well


def restart(space, name="orders"):
    """Asks for a restart of all brokers, as by hand."""
    space.kubectl("annotate", "tmc", name, "--overwrite", f"tidemark.dev/restart={time.time()}")


def templates(space):
    return {name: template for name, (_, template, _) in space.pods().items()}


@contextlib.contextmanager
def stopped(space, pod):
    """A pod's broker stands still meanwhile, as on a disk that hangs."""
    uid = space.pods()[pod][0]
    pids = run("pgrep", "-f", "tidemark broker").stdout.split()
    mine = [pid for pid in pids if uid in pathlib.Path(f"/proc/{pid}/cgroup").read_text()]
    if not mine:
        raise Failed(f"{pod} has no process of a broker")
    run("kill", "-STOP", *mine)
    try:
        yield
    finally:
        # The kubelet may have ended it: it is not alive as far as its probe tells.
        run("kill", "-CONT", *mine, check=False)


def windows(space):
    """Outside of its windows nothing restarts, and which one is next is told; an evicted broker returns as it was; it opens, and the roll begins."""
    at = lambda **more: (datetime.datetime.now(datetime.UTC) + datetime.timedelta(**more)).strftime("%H:%M")
    later = {"name": "later", "start": at(hours=3), "duration": "30m"}
    space.patch("tmc", "orders", {"spec": {"disruption": {"windows": [later]}}})
    before = space.pods()
    restart(space)
    space.is_("tmc", "orders", "Reconciled", "OutOfWindow")
    message = space.get("tmc", "orders")["status"]["message"]
    if "later opens on " not in message or f"at {later['start']} UTC" not in message:
        raise Failed(f"the next window is not told: {message}")
    space.kubectl("delete", "pod", "orders-0-0")
    until("the pod is back", 90, lambda: space.pods()["orders-0-0"][2] and space.pods()["orders-0-0"][0] != before["orders-0-0"][0])
    expect("templates", templates(space), {name: pod[1] for name, pod in before.items()})
    with Watch(space) as watch, traffic(space, "traffic-of-window"):
        now = {"name": "now", "start": at(minutes=-1), "duration": "2h"}
        space.patch("tmc", "orders", {"spec": {"disruption": {"windows": [later, now]}}})
        well(space)
    expect("brokers down at once", watch.most_down, 1)
    expect("brokers on the old template", [name for name, pod in before.items() if space.pods()[name][1] == pod[1]], [])
    space.patch("tmc", "orders", {"spec": {"disruption": {"windows": None}}})


def unreplicated(space):
    """Partitions with one replica are named before; blocked, their brokers stay; let through, the roll ends."""
    space.tidemark("orders", "topic", "create", "lonely", "-p", "4", "-r", "1")
    space.patch("tmc", "orders", {"spec": {"disruption": {"mode": "Approval", "unreplicated": "Block"}}})
    restart(space)
    space.is_("tmc", "orders", "Reconciled", "AwaitingApproval")
    named = until("a preview that names them", 60, lambda: space.get("tmc", "orders")["status"]["disruption"]["unavoidable"])
    expect("partitions that will be offline", named, [f"lonely-{index}" for index in range(4)])
    space.patch("tmc", "orders", {"spec": {"disruption": {"mode": "Automatic"}}})
    space.is_("tmc", "orders", "Reconciled", "Unreplicated", 180)
    message = space.get("tmc", "orders")["status"]["message"]
    if "lonely-" not in message:
        raise Failed(f"it does not say what is in the way: {message}")
    space.patch("tmc", "orders", {"spec": {"disruption": {"unreplicated": "Proceed"}}})
    well(space)
    space.tidemark("orders", "topic", "delete", "lonely", "--execute")


def behind(space):
    """A follower that stands still holds a roll up, and is named; when it is back the roll ends."""
    controller = space.get("tmc", "orders")["status"]["controller"]
    slow = next(name for name in space.pods() if name != f"orders-{controller}-0")
    with Watch(space) as watch, traffic(space, "traffic-of-follower"):
        before = templates(space)
        with stopped(space, slow):
            until(f"{slow} is not ready", 60, lambda: not space.pods()[slow][2])
            restart(space)
            said = lambda: space.get("tmc", "orders")["status"]["message"]
            until("the roll waits for it", 60, lambda: f"broker {slow.split('-')[1]}" in said() and "disruption" in space.get("tmc", "orders")["status"])
            time.sleep(5)
            expect("templates", templates(space), before)
        well(space, 300)
    expect("brokers down at once", watch.most_down, 1)
    expect("brokers on the old template", [name for name, old in before.items() if templates(space)[name] == old], [])


def unschedulable(space):
    """Resources that no node has stop one broker; set back, it is repaired before anything else."""
    pools = space.get("tmc", "orders")["spec"]["pools"]
    good, before = pools[0].get("resources"), space.pods()
    with Watch(space) as watch, traffic(space, "traffic-of-resources"):
        pools[0]["resources"] = {"requests": {"cpu": "1000"}}
        space.patch("tmc", "orders", {"spec": {"pools": pools}})
        space.is_("tmc", "orders", "Reconciled", "Unschedulable")
        touched = [name for name, pod in space.pods().items() if pod[0] != before[name][0]]
        expect("brokers that were touched", len(touched), 1)
        pools[0]["resources"] = good
        space.patch("tmc", "orders", {"spec": {"pools": pools}})
        # A pod that waits is given five minutes: a node may be on its way.
        well(space, 420)
    expect("brokers down at once", watch.most_down, 1)
    expect("those that were not touched", {n: p for n, p in space.pods().items() if n not in touched}, {n: p for n, p in before.items() if n not in touched})


def roll_killed(space):
    """The operator is killed again and again, each time as soon as a template has been written: every next one goes on."""
    written = lambda: {o["metadata"]["name"]: o["metadata"]["labels"]["tidemark.dev/template"] for o in space.get("sts")
                       if o["metadata"]["labels"].get("tidemark.dev/cluster") == "orders"}
    with Watch(space) as watch, traffic(space, "traffic-of-kills"):
        was = written()
        first = dict(was)
        restart(space)
        for _ in first:
            until("a template is written", 180, lambda: written() != was)
            run("kubectl", "-n", "tidemark-system", "delete", "pod", holder(), "--grace-period=0", "--force", check=False)
            was = written()
        well(space, 300)
    expect("brokers down at once", watch.most_down, 1)
    expect("brokers on the old template", [name for name, old in first.items() if written()[name] == old], [])


def levels(space):
    """The first broker on another version proves itself; a level is taken when all know it; before that one can go back, after that the version before stops one broker."""
    def status():
        return space.get("tmc", "levels")["status"]

    def image(tag):
        space.patch("tmc", "levels", {"spec": {"image": f"{IMAGE}:{tag}"}})

    def touched(before):
        return [name for name, pod in space.pods("levels").items() if pod[0] != before[name][0]]

    space.apply(cluster("levels", replicas=3, voters=3, deletionPolicy="Delete", image=f"{IMAGE}:1", features={"soak": "20s"}))
    space.is_("tmc", "levels", "Reconciled", "True", 180)
    until("the first level", 90, lambda: status()["features"] == {"level": 1, "newest": 1})
    space.tidemark("levels", "produce", "kept", "--create", text="before\n")
    space.patch("tmc", "levels", {"spec": {"features": {"soak": "unlimited"}}})
    before = space.pods("levels")
    image("next")
    space.is_("tmc", "levels", "Reconciled", "Canary", 120)
    expect("brokers on the next version", len(touched(before)), 1)
    # It was not good: back, without a wait.
    image(1)
    space.is_("tmc", "levels", "Reconciled", "True", 90)
    expect("brokers that were touched", len(touched(before)), 1)
    image("next")
    space.is_("tmc", "levels", "Reconciled", "True", 300)
    until("a level that is not taken by itself", 60, lambda: status()["features"]["newest"] == 2 and status()["features"]["message"])
    expect("the level", status()["features"]["level"], 1)
    space.patch("tmc", "levels", {"spec": {"features": {"policy": "Manual", "level": 2}}})
    until("the level", 60, lambda: status()["features"] == {"level": 2, "newest": 2})
    space.tidemark("levels", "produce", "kept", text="after\n")
    before = space.pods("levels")
    image(1)
    space.is_("tmc", "levels", "Reconciled", "BrokerFailing", 180)
    expect("brokers on the version before", len(touched(before)), 1)
    message = status()["message"]
    if "newer than" not in message and "does not have level 2" not in message:
        raise Failed(f"it does not say why: {message}")
    expect("Ready", space.condition("tmc", "levels", "Ready")[0], "True")
    image("next")
    space.is_("tmc", "levels", "Reconciled", "True", 180)
    expect("records", space.tidemark("levels", "consume", "kept").stdout.split(), ["before", "after"])
    space.kubectl("delete", "tmc", "levels")


def node_loss(space):
    """A node is gone as by a power cut, with its broker: clients go on, a roll waits and names the broker; the node comes back, and all is well."""
    pods = space.get("pods")
    at = {pod["metadata"]["name"]: pod["spec"]["nodeName"] for pod in pods}
    brokers = {name: node for name, node in at.items() if name in space.pods()}
    alone = [name for name, node in brokers.items() if list(brokers.values()).count(node) == 1 and node != at["client"]]
    if not alone:
        raise Failed(f"no broker is alone on a node without the client: {at}")
    lost = alone[0]
    index, id_ = brokers[lost][1:], lost.split("-")[1]
    lab = str(REPO / "lab/kubernetes/lab")
    before = templates(space)
    try:
        with Watch(space) as watch, traffic(space, "traffic-of-node"):
            run(lab, "nodedown", index)
            until(f"{lost} is lost", 90, lambda: not space.pods()[lost][2])
            restart(space)
            until("the roll waits for it", 120, lambda: "disruption" in space.get("tmc", "orders")["status"]
                  and f"broker {id_}" in space.get("tmc", "orders")["status"]["message"])
            time.sleep(5)
            expect("templates", templates(space), before)
            run(lab, "node", index)
            well(space, 420)
    finally:
        run(lab, "node", index)
    expect("brokers down at once", watch.most_down, 1)
    expect("moments without Ready", watch.unavailable, [])
    expect("brokers on the old template", [name for name, old in before.items() if templates(space)[name] == old], [])

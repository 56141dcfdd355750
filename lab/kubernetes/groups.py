"""Cases about consumer groups: lag, members that stand still, resets."""

import contextlib
import json
import pathlib
import subprocess
import time

from kube import Failed, expect, run, until
from objects import group


def groups(space):
    """Lag is told; a reset is shown, done once, and not again by a resource that is made anew."""
    space.tidemark("orders", "topic", "create", "invoices", "--partitions", "1")
    space.tidemark("orders", "produce", "invoices", text="".join(f"{i}\n" for i in range(10)))
    space.tidemark("orders", "consume", "invoices", "--group", "billing", "-n", "4")
    resource = group("billing", lag={"records": 5}, minMembers=0)
    space.apply(resource)
    space.is_("tmg", "billing", "LagWithinBounds", "TooFarBehind")
    expect("lag", space.get("tmg", "billing")["status"]["lag"]["records"], 6)

    def offset():
        rows = json.loads(space.tidemark("orders", "-o", "json", "group", "describe", "billing").stdout)
        return next(p["committed"] for p in rows["partitions"])

    reset = {"token": "one", "to": {"earliest": True}}
    resource["spec"]["reset"] = reset
    space.apply(resource)
    space.is_("tmg", "billing", "ResetApplied", "DryRun")
    expect("the plan", space.get("tmg", "billing")["status"]["reset"]["plan"], ["invoices-0: 4 to 0"])
    expect("offset after a dry run", offset(), 4)
    reset["dryRun"] = False
    space.apply(resource)
    space.is_("tmg", "billing", "ResetApplied", "True")
    expect("offset after the reset", offset(), 0)
    space.tidemark("orders", "consume", "invoices", "--group", "billing", "-n", "3")
    space.kubectl("delete", "tmg", "billing")
    space.apply(resource)
    space.is_("tmg", "billing", "ResetApplied", "True")
    expect("offset after the resource was made again", offset(), 3)
    # Nor when all is lost that stands beside the cluster: the cluster itself knows.
    space.kubectl("delete", "tmg", "billing")
    kept = [c["metadata"]["name"] for c in space.get("configmap") if c["metadata"]["name"].startswith("orders-reset-")]
    expect("ConfigMaps of resets", len(kept), 1)
    space.kubectl("delete", "configmap", *kept)
    space.apply(resource)
    space.is_("tmg", "billing", "ResetApplied", "True")
    expect("offset after its ConfigMap was lost", offset(), 3)
    lag = space.get("tmg", "billing")["status"]["lag"]
    if lag["records"] != 7 or not lag.get("time"):
        raise Failed(f"the lag is told by records and by time: {lag}")


def committed(space, group):
    """What a group has committed in the first partition of its topic."""
    return json.loads(space.tidemark("orders", "-o", "json", "group", "describe", group).stdout)["partitions"][0]["committed"]


@contextlib.contextmanager
def member(space, topic, group):
    """A member of a group, which follows a topic; gives the ids of its processes."""
    bootstrap = f"orders-bootstrap.{space.name}.svc:9092"
    command = ["tidemark", "-b", bootstrap, "consume", topic, "--group", group, "--follow"]
    process = subprocess.Popen(["kubectl", "-n", space.name, "exec", "client", "--", *command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    pids = lambda: [pid for pid in run("pgrep", "-f", f"consume {topic} --group {group}", check=False).stdout.split()
                    if pathlib.Path(f"/proc/{pid}/comm").read_text().strip() == "tidemark"]
    try:
        yield pids
    finally:
        run("kill", "-KILL", *pids(), check=False)
        process.kill()
        process.wait()


def stuck_group(space):
    """A member that stands still: the group is stuck, and the partition and the member are named."""
    space.tidemark("orders", "topic", "create", "parcels", "--partitions", "1")
    space.tidemark("orders", "produce", "parcels", text="first\n")
    with member(space, "parcels", "packing") as pids:
        space.apply(group("packing", lag={"stuckAfter": "10s"}))
        # What was never committed is no lag.
        until("the member has read", 60, lambda: committed(space, "packing") == 1)
        until("it is seen", 60, lambda: (lambda s: s["members"] == 1 and s["lag"]["records"] == 0)(space.get("tmg", "packing")["status"]))
        space.is_("tmg", "packing", "LagWithinBounds", "True")
        run("kill", "-STOP", *pids())
        space.tidemark("orders", "produce", "parcels", text="second\n")
        space.is_("tmg", "packing", "LagWithinBounds", "Stuck", 60)
        message = space.get("tmg", "packing")["status"]["message"]
        if "parcels-0 stands at offset 1" not in message or " has it" not in message:
            raise Failed(f"what it is stuck in is not named: {message}")
        run("kill", "-CONT", *pids())
        space.is_("tmg", "packing", "LagWithinBounds", "True", 60)


def active_group(space):
    """A reset of a group that is at work waits until nobody is, and is done once."""
    space.tidemark("orders", "topic", "create", "letters", "--partitions", "1")
    space.tidemark("orders", "produce", "letters", text="first\nsecond\n")
    resource = group("posting", reset={"token": "one", "to": {"earliest": True}, "dryRun": False})
    offset = lambda: committed(space, "posting")
    with member(space, "letters", "posting"):
        until("the member has read", 60, lambda: offset() == 2)
        space.apply(resource)
        space.is_("tmg", "posting", "ResetApplied", "Waiting")
        time.sleep(5)
        expect("offset while it is at work", offset(), 2)
    space.is_("tmg", "posting", "ResetApplied", "True", 120)
    expect("offset after the reset", offset(), 0)
    space.tidemark("orders", "consume", "letters", "--group", "posting", "-n", "1")
    space.apply(resource)
    time.sleep(5)
    expect("offset after the resource was applied again", offset(), 1)

"""What the cases of e2e.py are about: resources, the operator, and what is looked at again and again."""

import json
import pathlib

from kube import IMAGE, Traffic, run, until

REPO = pathlib.Path(__file__).resolve().parents[2]
# The machine, as pods reach it.
HOST = "10.210.0.1"


def cluster(name, replicas=1, voters=1, size="1Gi", storage=None, **spec):
    pool = {"name": "brokers", "replicas": replicas, "storage": {"size": size, **(storage or {})}}
    spec = {"quorum": {"voters": voters}, "pools": [pool], **spec}
    return {"apiVersion": "tidemark.dev/v1alpha1", "kind": "Cluster", "metadata": {"name": name}, "spec": spec}


def topic(name, of="orders", **spec):
    spec = {"clusterRef": {"name": of}, **spec}
    return {"apiVersion": "tidemark.dev/v1alpha1", "kind": "Topic", "metadata": {"name": name}, "spec": spec}


def group(name, **spec):
    spec = {"clusterRef": {"name": "orders"}, **spec}
    return {"apiVersion": "tidemark.dev/v1alpha1", "kind": "ConsumerGroup", "metadata": {"name": name}, "spec": spec}


def install():
    definitions = [path.read_text() for path in sorted((REPO / "crds/yaml").glob("*.yaml"))]
    operator = (REPO / "operator/install.yaml").read_text().replace("tidemark:latest", f"{IMAGE}:1")
    run("kubectl", "apply", "-f", "-", text="\n---\n".join([*definitions, operator]))
    run("kubectl", "wait", "--for=condition=Established", "crd", "--all", "--timeout=30s")
    # On the nodes of an earlier run it is the image under the same name.
    run("kubectl", "-n", "tidemark-system", "rollout", "restart", "deploy/tidemark-operator")
    run("kubectl", "-n", "tidemark-system", "rollout", "status", "deploy/tidemark-operator", "--timeout=60s")


def holder():
    """The operator's pod that leads, as the Lease says."""
    lease = json.loads(run("kubectl", "-n", "tidemark-system", "get", "lease", "tidemark-operator", "-o", "json").stdout)
    return (lease["spec"].get("holderIdentity") or "").rsplit("_", 1)[0]


def operators():
    pods = json.loads(run("kubectl", "-n", "tidemark-system", "get", "pods", "-l", "app.kubernetes.io/name=tidemark-operator", "-o", "json").stdout)
    return [pod["metadata"]["name"] for pod in pods["items"] if "deletionTimestamp" not in pod["metadata"]]


def operator(replicas):
    run("kubectl", "-n", "tidemark-system", "scale", "deploy/tidemark-operator", f"--replicas={replicas}")
    if replicas:
        run("kubectl", "-n", "tidemark-system", "rollout", "status", "deploy/tidemark-operator", "--timeout=60s")
    else:
        gone = ["kubectl", "-n", "tidemark-system", "wait", "--for=delete", "pod", "-l", "app.kubernetes.io/name=tidemark-operator"]
        run(*gone, "--timeout=60s", check=False)


def traffic(space, name):
    """A producer and a reader of a topic of its own."""
    space.apply(topic(name, partitions=6, replicas=3))
    space.is_("tmt", name, "Synced", "True")
    return Traffic(space, "orders", name)


def well(space, seconds=180):
    space.is_("tmc", "orders", "Reconciled", "True", seconds)


def setting_of(space, topic, name):
    rows = json.loads(space.tidemark("orders", "-o", "json", "config", "show", "--topic", topic).stdout)
    return next((row["value"] for row in rows if row.get("setting", row.get("name")) == name), None)


def forget(space, name):
    """Deletes a cluster with all that it leaves behind, as one that is lost."""
    space.kubectl("delete", "tmc", name)
    until("pods are gone", 120, lambda: not space.pods(name))
    space.kubectl("delete", "pvc,configmap", "-l", f"tidemark.dev/cluster={name}")


def replicas(space, name, count, **more):
    pools = space.get("tmc", name)["spec"]["pools"]
    pools[0] = {**pools[0], "replicas": count, **more}
    space.patch("tmc", name, {"spec": {"pools": pools}})


def voters(space, name="orders"):
    rows = json.loads(space.tidemark(name, "-o", "json", "cluster", "quorum", "describe").stdout)["replicas"]
    return sorted(row["node"] for row in rows if row["role"] != "observer")


def holders(space, topic, name="orders"):
    """The brokers that hold something of a topic."""
    rows = json.loads(space.tidemark(name, "-o", "json", "topic", "describe", topic).stdout)["partitions"]
    return sorted({id_ for row in rows for id_ in row["replicas"]})

"""Cases of e2e.py about what is installed: the examples, and the chart from install to uninstall."""

import json
import tempfile

from kube import IMAGE, Failed, Space, expect, run, until

NAMESPACE = "chart"
RELEASE = "streams"


def examples(space, repo):
    """Every example is accepted by the API server, and a field that is not there is refused."""
    # Where none of them is there: what may not change is another question.
    space = Space("examples")
    for path in sorted((repo / "examples").glob("*.yaml")):
        space.kubectl("apply", "--dry-run=server", "--validate=strict", "-f", str(path))
    wrong = (repo / "examples/cluster.yaml").read_text().replace("replicas: 3", "replica: 3")
    if space.apply(wrong, "", check=False).returncode == 0:
        raise Failed("an example with a field that is not there was accepted")


def helm(*command, **more):
    return run("helm", "-n", NAMESPACE, *command, timeout=300, **more)


def values(tag):
    repository = f"--set=image.repository={IMAGE}"
    return [repository, f"--set=image.tag={tag}", f"--set=brokerImage={IMAGE}:1", "--wait", "--timeout=120s"]


def chart(space, repo):
    """Install, protect, upgrade, roll back, uninstall with helm: brokers run through all of it."""
    at = str(repo / "chart")
    # That of install.yaml looks after all namespaces.
    run("kubectl", "-n", "tidemark-system", "scale", "deploy/tidemark-operator", "--replicas=0")
    gone = ["kubectl", "-n", "tidemark-system", "wait", "--for=delete", "pod", "-l", "app.kubernetes.io/name=tidemark-operator"]
    run(*gone, "--timeout=60s", check=False)
    try:
        chart_with(Space(NAMESPACE), at)
    finally:
        helm("uninstall", RELEASE, "--ignore-not-found", check=False)
        run("kubectl", "-n", NAMESPACE, "annotate", "tmt", "--all", "tidemark.dev/protect-", check=False)
        run("kubectl", "delete", "namespace", NAMESPACE, "--ignore-not-found", "--timeout=120s", check=False)
        run("kubectl", "-n", "tidemark-system", "scale", "deploy/tidemark-operator", "--replicas=1")
        # Helm has taken the definitions over: they are as they were, but for its labels.
        run("kubectl", "-n", "tidemark-system", "rollout", "status", "deploy/tidemark-operator", "--timeout=60s")


def chart_with(own, at):
    # The definitions are there already, from install.yaml.
    helm("install", RELEASE, at, *values(1), "--take-ownership")
    cluster = {
        "apiVersion": "tidemark.dev/v1alpha1", "kind": "Cluster", "metadata": {"name": "small"},
        "spec": {"quorum": {"voters": 1}, "pools": [{"name": "a", "replicas": 1, "storage": {"size": "4Gi"}}]},
    }
    topic = {
        "apiVersion": "tidemark.dev/v1alpha1", "kind": "Topic",
        "metadata": {"name": "kept", "annotations": {"tidemark.dev/protect": "true"}},
        "spec": {"clusterRef": {"name": "small"}, "deletionPolicy": "Delete"},
    }
    own.apply(cluster, topic)
    own.is_("tmc", "small", "Reconciled", "True", 120)
    own.is_("tmt", "kept", "Synced", "True", 60)
    pods = own.pods("small")

    # A policy is in force some moments after it was made.
    def protected():
        refused = own.kubectl("delete", "tmt", "kept", "--dry-run=server", check=False)
        return refused.returncode and "tidemark.dev/protect" in refused.stderr
    until("the protected topic is not deleted", 30, protected)

    def may(verb, role):
        user = f"--as=someone-with-{role}"
        own.kubectl("create", "rolebinding", role, f"--clusterrole={role}", f"--user=someone-with-{role}", check=False)
        return own.kubectl("auth", "can-i", verb, "topics.tidemark.dev", user, check=False).stdout.strip()
    until("roles are aggregated", 30, lambda: may("create", "edit") == "yes" and may("get", "view") == "yes")
    expect("whether viewers may create topics", may("create", "view"), "no")

    # As people will do it who have no operator's rights: through the plugin.
    for command in (["status", "small"], ["plan", "small"], ["run", "small", "--", "topic", "list"]):
        run("kubectl", "tidemark", "-n", NAMESPACE, *command)
    done = run("tidemark", "doctor", "--cluster", "small", "-n", NAMESPACE, "-o", "json", check=False)
    found = [f["what"] for check in json.loads(done.stdout)["checks"] for f in check["findings"]]
    expect("what the doctor finds", found, [])

    helm("upgrade", RELEASE, at, *values(2), "--take-ownership")
    image = own.get("deploy", f"{RELEASE}-operator")["spec"]["template"]["spec"]["containers"][0]["image"]
    expect("the operator's image", image, f"{IMAGE}:2")
    own.patch("tmt", "kept", {"spec": {"partitions": 3}})
    until("the new operator is at work", 60, lambda: own.get("tmt", "kept")["status"]["partitions"] == 3)
    expect("brokers after the upgrade", own.pods("small"), pods)
    helm("rollback", RELEASE, "1", "--wait", "--timeout=120s")
    own.patch("tmt", "kept", {"spec": {"partitions": 4}})
    until("the old operator is at work", 60, lambda: own.get("tmt", "kept")["status"]["partitions"] == 4)
    expect("brokers after the rollback", own.pods("small"), pods)

    # A restart that is asked for through the plugin.
    run("kubectl", "tidemark", "-n", NAMESPACE, "restart", "small")
    until("the broker restarts", 120, lambda: own.pods("small") and own.pods("small") != pods
          and all(ready for _, _, ready in own.pods("small").values()))
    own.is_("tmc", "small", "Reconciled", "True", 120)

    # An approval is of the plan that was shown.
    def plugin(*command, **more):
        return run("kubectl", "tidemark", "-n", NAMESPACE, "-o", "json", *command, **more)
    own.patch("tmc", "small", {"spec": {"disruption": {"mode": "Approval"}, "image": f"{IMAGE}:2"}})

    def awaited():
        plan = json.loads(plugin("plan", "small").stdout)["plan"]
        return plan and plan["state"] == "AwaitingApproval" and plan
    plan = until("a plan that waits", 60, awaited)
    expect("its reasons", plan["reasons"], ["ImageChange"])
    pods = own.pods("small")
    expect("approval of another plan", plugin("approve", "small", "d-00000000", check=False).returncode, 1)
    plugin("approve", "small", plan["id"])
    until("the broker restarts", 120, lambda: own.pods("small") and own.pods("small") != pods
          and all(ready for _, _, ready in own.pods("small").values()))
    own.is_("tmc", "small", "Reconciled", "True", 120)
    with tempfile.TemporaryDirectory() as directory:
        report = json.loads(plugin("gather", "small", "--to", f"{directory}/bundle").stdout)
        # There is a log of before only where a broker crashed.
        expect("what could not be gathered", report["missing"], ["small-0-0.previous.log"])

    finalizers = own.get("tmt", "kept")["metadata"].get("finalizers")
    expect("finalizers while an operator is there", finalizers, ["tidemark.dev/topic"])
    pods = own.pods("small")
    helm("uninstall", RELEASE, "--wait", "--timeout=180s")
    expect("finalizers after it was uninstalled", own.get("tmt", "kept")["metadata"].get("finalizers"), None)
    expect("brokers after it was uninstalled", own.pods("small"), pods)
    left = own.get("deploy,job,role,rolebinding,networkpolicy")
    expect("what is left of the release", [o["metadata"]["name"] for o in left if o["metadata"]["name"].startswith(RELEASE)], [])
    run("kubectl", "get", "crd", "clusters.tidemark.dev", "topics.tidemark.dev", "consumergroups.tidemark.dev")
    # install.yaml has the same policy: it is in force where the release is not.
    own.kubectl("annotate", "tmt", "kept", "tidemark.dev/protect-")
    run("kubectl", "delete", "namespace", NAMESPACE, "--timeout=120s")

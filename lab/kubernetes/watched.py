"""The case of e2e.py about what the operator tells: a real Prometheus scrapes it, each panel of its dashboard has data, and a
roll that is blocked and operators that are gone move panels and raise their alerts."""

import json
import pathlib
import shutil
import tempfile

import main as dashboards
from cluster import Prometheus, end

from kube import IMAGE, run, until


def addresses():
    """The operators' pods, which the machine reaches."""
    pods = json.loads(run("kubectl", "-n", "tidemark-system", "get", "pods", "-l", "app.kubernetes.io/name=tidemark-operator", "-o", "json").stdout)
    running = [pod for pod in pods["items"] if pod["status"].get("podIP") and "deletionTimestamp" not in pod["metadata"]]
    return [f"{pod['status']['podIP']}:8080" for pod in running]


def operator_dashboard(space, cluster, scale):
    work = pathlib.Path(tempfile.mkdtemp(prefix="watched-"))
    name = "watched"
    job = {"job_name": "tidemark-operator", "honor_labels": True, "static_configs": [{"targets": addresses()}]}
    prometheus = Prometheus(work, [job], dashboards.shortened())
    try:
        space.apply(cluster(name, replicas=1, voters=1))
        space.is_("tmc", name, "Reconciled", "True", 120)
        asked = dashboards.panels(of_operator=True)
        for (_, title), exprs in asked.items():
            for expr in exprs:
                until(f"a value in {title}: {expr}", 60, lambda expr=expr: prometheus.query(expr))
        print(f"         {len(asked)} panels have values")

        def shows(title):
            return max(value for expr in asked["operator", title] for value in prometheus.query(expr).values())

        until("no alert of the operator", 60, lambda: not dashboards.OF_OPERATOR & set(prometheus.firing()))
        # What was waited for while it started is scraped until the next time.
        until("nothing that waits", 60, lambda: shows("A roll waits") == 0.0)
        space.patch("tmc", name, {"spec": {"image": f"{IMAGE}:none"}})
        until("RollBlocked", 120, lambda: "RollBlocked" in prometheus.firing() and shows("A roll waits") > 5)
        print(f"         a roll that is blocked: RollBlocked; A roll waits 0 -> {shows('A roll waits'):.0f}, "
              f"Restarts to come {shows('Restarts to come'):.0f}")
        space.patch("tmc", name, {"spec": {"image": f"{IMAGE}:1"}})
        space.is_("tmc", name, "Reconciled", "True", 180)
        until("RollBlocked being quiet", 60, lambda: "RollBlocked" not in prometheus.firing())
        scale(0)
        until("OperatorDown", 60, lambda: "OperatorDown" in prometheus.firing())
        print("         operators that are gone: OperatorDown")
    finally:
        end(prometheus.process)
        scale(2)
        space.kubectl("delete", "tmc", name, check=False)
        shutil.rmtree(work, ignore_errors=True)

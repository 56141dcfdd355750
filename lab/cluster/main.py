"""Three real brokers, real clients, faults, and a judgement: Tidemark beside Apache Kafka. See README.md."""

import argparse
import contextlib
import datetime
import json
import os
import platform
import shutil
import signal
import statistics
import sys
import tempfile
import time
from pathlib import Path

from labkit.paths import LAB

from faults import FAULTS
from net import Network
from nodes import FLAVOURS, Cluster
from play import play


def options():
    parser = argparse.ArgumentParser(prog="lab/cluster/run", description=__doc__,
                                     epilog="faults: " + "; ".join(f"{name}: {f.what}" for name, f in FAULTS.items()))
    parser.add_argument("--rounds", type=int, default=3, help="of each fault (3)")
    parser.add_argument("--fault", default=",".join(FAULTS), help="names with commas; all unless told")
    parser.add_argument("--peer", choices=["tidemark", "kafka", "both"], default="both", help="who is put to it (both)")
    parser.add_argument("--quick", action="store_true", help="one round of each fault, Tidemark alone")
    parser.add_argument("--prove", action="store_true",
                        help="one leader split from the others under acks=1: fails unless the judge finds the loss")
    parser.add_argument("-o", "--output", choices=["table", "json"], default="table")
    parser.add_argument("--record", metavar="NAME", help="adds the table to lab/results/DATE-NAME.md")
    parser.add_argument("--keep", action="store_true", help="keeps logs and histories, as a failure does")
    chosen = parser.parse_args()
    if chosen.quick or chosen.prove:
        chosen.rounds, chosen.peer = 1, "tidemark" if chosen.peer == "both" else chosen.peer
    chosen.faults = ["split"] if chosen.prove else chosen.fault.split(",")
    unknown = [name for name in chosen.faults if name not in FAULTS]
    if unknown:
        parser.error(f"no fault named {', '.join(unknown)}: {', '.join(FAULTS)}")
    chosen.peers = list(FLAVOURS) if chosen.peer == "both" else [chosen.peer]
    return chosen


def say(text):
    print(text, file=sys.stderr, flush=True)


def run(flavour, chosen, network, work):
    """All rounds of one side. A cluster that is broken is replaced, so that each fault is judged for itself."""
    outcomes, cluster = [], None
    with contextlib.ExitStack() as ending:
        for name in chosen.faults:
            for number in range(1, chosen.rounds + 1):
                try:
                    if cluster is None:
                        began = time.monotonic()
                        place = Path(tempfile.mkdtemp(prefix=f"{flavour}-", dir=work))
                        cluster = Cluster(flavour, place)
                        ending.callback(cluster.end)
                        cluster.start()
                        say(f"{flavour}: three brokers in {time.monotonic() - began:.1f} s")
                    outcome = play(cluster, network, name, FAULTS[name], number, place, acks="1" if chosen.prove else "all")
                except Exception as error:  # noqa: BLE001 - a cluster that does not start is an outcome as well
                    outcome = {"fault": name, "peer": flavour, "round": number, "wrong": [f"{type(error).__name__}: {error}"]}
                outcomes.append(outcome)
                say(f"{flavour} {name} {number}: gap {shown(outcome.get('gap_s'))}, {outcome.get('acked', 0)} acknowledged, "
                    + ("; ".join(outcome["wrong"]) or "nothing lost"))
                if outcome["wrong"] and cluster is not None:
                    cluster.end()
                    network.heal()
                    cluster = None
    return outcomes


def proven(outcomes):
    """acks=1 is lost when its leader is cut from the others: a judge that does not say so is blind."""
    found = [one for o in outcomes for one in o["wrong"] if "acknowledged records are lost" in one]
    say("cluster: " + (f"found out, as it must be: {found[0]}" if found else "records acknowledged by acks=1 were lost unseen"))
    return bool(found)


def finish(work, chosen, well):
    if well and not chosen.keep:
        shutil.rmtree(work, ignore_errors=True)
    else:
        say(f"cluster: kept {work}")
    sys.exit(0 if well else 1)


def shown(seconds):
    return "-" if seconds is None else f"{seconds:.2f} s"


def summary(outcomes, chosen):
    """A row for each fault: {fault, bar, tidemark: {...}, kafka: {...}, missed: [...]}."""
    rows = []
    for name in chosen.faults:
        fault, row = FAULTS[name], {"fault": name, "what": FAULTS[name].what, "missed": []}
        for flavour in chosen.peers:
            these = [o for o in outcomes if o["fault"] == name and o["peer"] == flavour]
            gaps = [o["gap_s"] for o in these if "gap_s" in o]
            row[flavour] = {"rounds": len(these), "longest_s": max(gaps, default=None),
                            "median_s": statistics.median(gaps) if gaps else None,
                            "acked": sum(o.get("acked", 0) for o in these), "failed": sum(o.get("failed", 0) for o in these),
                            "wrong": [one for o in these for one in o["wrong"]]}
            row["missed"] += [f"{flavour}: {one}" for one in row[flavour]["wrong"]]
        ours, theirs = row.get("tidemark"), row.get("kafka")
        row["bar"] = " and ".join(
            ([f"under {fault.under_s:g} s"] if fault.under_s else [])
            + ([f"at most {fault.of_peer:g} of Kafka's" if fault.of_peer != 1 else "not above Kafka's"] if fault.of_peer else [])
            + (["no failed produce"] if not fault.may_fail else []))
        if ours and fault.under_s and (ours["longest_s"] is None or ours["longest_s"] >= fault.under_s):
            row["missed"].append(f"the longest gap is {shown(ours['longest_s'])}, not under {fault.under_s:g} s")
        if ours and theirs and fault.of_peer and ours["median_s"] is not None and theirs["median_s"] is not None \
                and ours["median_s"] > fault.of_peer * theirs["median_s"]:
            row["missed"].append(f"the median gap is {ours['median_s'] / theirs['median_s']:.2f} of Kafka's")
        rows.append(row)
    return rows


def table(rows, chosen):
    names = [f"{flavour}: {part}" for flavour in chosen.peers for part in ("longest", "median", "acknowledged")]
    lines = [["fault", "rounds", *names, "bar", "verdict"]]
    for row in rows:
        cells = [cell for flavour in chosen.peers
                 for cell in (shown(row[flavour]["longest_s"]), shown(row[flavour]["median_s"]), str(row[flavour]["acked"]))]
        lines.append([row["fault"], str(row[chosen.peers[0]]["rounds"]), *cells, row["bar"], "MISSED" if row["missed"] else "ok"])
    widths = [max(map(len, column)) for column in zip(*lines)]
    text = ["| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths)) + " |" for line in lines]
    text.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(text)


def record(name, text, missed, seconds, chosen):
    path = LAB / "results" / f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d}-{name}.md"
    if not path.exists():
        path.write_text("# Three brokers under faults\n\n")
    with path.open("a") as out:
        out.write(f"{platform.system()} {platform.release()}, {os.cpu_count()} processors, three brokers, an idempotent producer with "
                  f"acks=all, a group of two, a probe every 25 ms; the longest time without an acknowledgement; "
                  f"`--peer {chosen.peer} --rounds {chosen.rounds}`, {seconds:.0f} s\n\n{text}\n\n"
                  + "".join(f"- {one.splitlines()[0]}\n" for one in missed) + ("\n" if missed else ""))
    say(f"recorded in {path.relative_to(LAB.parent)}")


def main():
    chosen = options()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    work = Path(tempfile.mkdtemp(prefix="tidemark-cluster-"))
    network, outcomes, began = Network(), [], time.monotonic()
    network.up().enter()
    for flavour in chosen.peers:
        outcomes += run(flavour, chosen, network, work)
    if chosen.prove:
        finish(work, chosen, proven(outcomes))
    rows = summary(outcomes, chosen)
    missed = [f"{row['fault']}: {one}" for row in rows for one in row["missed"]]
    text = table(rows, chosen)
    print(json.dumps({"rounds": outcomes, "faults": rows, "missed": missed}, indent=1) if chosen.output == "json" else text)
    if chosen.record:
        record(chosen.record, text, missed, time.monotonic() - began, chosen)
    for one in missed:
        say(f"  {one}")
    finish(work, chosen, not missed)


if __name__ == "__main__":
    main()

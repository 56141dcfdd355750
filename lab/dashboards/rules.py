"""promtool's word on dashboards/alerts.yaml: each rule fires on what it is for, and is quiet on what it is not.

Series are in promtool's notation (start+step x repeats), a value a minute. `BOTH` of a case are
the series that fire and the series that do not; one of the latter is what a restart looks like.
"""

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import yaml

RULES = Path(__file__).resolve().parents[2] / "dashboards" / "alerts.yaml"
RUNBOOKS = RULES.parents[1] / "docs" / "runbooks"
A, B = 'job="tidemark",instance="a"', 'job="tidemark",instance="b"'
DISK = 'job="tidemark",instance="a",directory="/data"'


def one(name, values, labels=A):
    return {f"{name}{{{labels}}}": values}


def histogram(name, labels, fast, slow):
    """Counts of what took at most 0.05 s and 0.2 s and of the rest, growing by so many a minute."""
    comma = f"{labels}," if labels else ""
    return {f'{name}_bucket{{{comma}le="{le}"}}': f"0+{step}x60"
            for le, step in (("0.05", fast), ("0.2", fast + slow / 2), ("1", fast + slow), ("+Inf", fast + slow))}


def hot(*steps):
    return {f'tidemark_partition_received_bytes_total{{{A},topic="t",partition="{at}"}}': f"0+{step}x60"
            for at, step in enumerate(steps)}


def group(lag, members, committed):
    labels = f'{A},group="g"'
    return {**one("tidemark_group_lag_records", lag, labels), **one("tidemark_group_members", members, labels),
            **one("tidemark_group_committed_offset_sum", committed, labels)}


def disk(free, capacity="100000000000"):
    return {**one("tidemark_disk_free_bytes", free, DISK), **one("tidemark_disk_capacity_bytes", f"{capacity}x60", DISK)}


def reserve(held_back, size="100x60"):
    return {**one("tidemark_tier_held_back_bytes", held_back, DISK), **one("tidemark_tier_reserve_bytes", size, DISK)}


OPERATOR = 'job="tidemark-operator",instance="o"'
ROLL = OPERATOR + ',namespace="shop",cluster="orders",reason="{}"'
FAILING = OPERATOR + ',kind="Cluster",outcome="{}"'
TLS = A + ',listener="TLS"'
TIER = A + ',outcome="{}"'
UP = "0x60"
# For two minutes something is amiss: a restart.
RESTART = "0x9 3x2 0x49"
ERRORS = f'{A},api="Produce",error="NOT_ENOUGH_REPLICAS"'

# By alert: what fires at its minute, and what never does within the hour.
CASES = {
    "PartitionsOffline": (one("tidemark_leaderless_partitions", "0x5 2x55"), [one("tidemark_leaderless_partitions", "0x9 2x0 0x50")]),
    "LogFailed": (one("tidemark_partitions_offline", "0x5 1x55"), [one("tidemark_partitions_offline", UP)]),
    "UnderMinIsr": (one("tidemark_under_min_isr_partitions", "0x5 4x55"),
                    [one("tidemark_under_min_isr_partitions", "0x9 4x0 0x50")]),
    "UnderReplicated": (one("tidemark_under_replicated_partitions", "0x5 4x55"),
                        [one("tidemark_under_replicated_partitions", RESTART)]),
    "AtMinIsr": (one("tidemark_at_min_isr_partitions", "0x5 4x55"), [one("tidemark_at_min_isr_partitions", RESTART)]),
    "QuorumNoLeader": ({**one("tidemark_active_controller", "1x5 0x55"), **one("tidemark_active_controller", UP, B)},
                       # It moves, and one of the two is down for a while.
                       [{**one("tidemark_active_controller", "1x9 0x51"),
                         **one("tidemark_active_controller", "0x9 1x51", B)},
                        {**one("tidemark_active_controller", "1x60"),
                         **one("tidemark_active_controller", "0x9 _x9 0x40", B)}]),
    "BrokerDown": (one("up", "1x5 0x55"), [one("up", "1x9 0x1 1x50"), one("up", "0x60", 'job="other",instance="a"')]),
    "BrokerFenced": (one("tidemark_fenced_brokers", "0x5 1x55"), [one("tidemark_fenced_brokers", RESTART)]),
    "BrokerNotReady": (one("tidemark_ready", "1x5 0x55"), [one("tidemark_ready", "1x9 0x3 1x47")]),
    "DiskFailed": (one("tidemark_disk_online", "1x5 0x55", DISK), [{**one("tidemark_disk_online", "1x60", DISK),
                                                                 **one("tidemark_data_directory_failed", UP)}]),
    "DiskReadOnly": (one("tidemark_disk_read_only", "0x5 1x55", DISK), [one("tidemark_disk_read_only", UP, DISK)]),
    # It loses 300 MB a minute; then: as fast with much left, little left but nothing lost.
    "DiskFullSoon": (disk("30000000000-300000000x60"),
                     [disk("90000000000-300000000x60"), disk("10000000000x60")]),
    # Then: it comes and goes, as with large segments.
    "TierLag": (one("tidemark_tier_lag_seconds", "0+60x60"), [one("tidemark_tier_lag_seconds", "0+60x17 0x42")]),
    # Then: a change of leaders; it failed now and then.
    "TierFailing": (one("tidemark_tier_failures_total", "0x5 1+1x55", TIER.format("away")),
                    [one("tidemark_tier_failures_total", "0+1x60", TIER.format("superseded")),
                     one("tidemark_tier_failures_total", "0x9 1x20 2x30", TIER.format("away"))]),
    "TierDenied": (one("tidemark_tier_failures_total", "0x5 1+1x55", TIER.format("denied")),
                   [one("tidemark_tier_failures_total", "0+1x60", TIER.format("away"))]),
    "TierVerifyFailed": (one("tidemark_tier_failures_total", "0x25 1x35", TIER.format("damaged")),
                         [one("tidemark_tier_failures_total", "1x60", TIER.format("damaged")),
                          one("tidemark_tier_failures_total", "0+1x60", TIER.format("away"))]),
    "SnapshotStale": (one("tidemark_tier_snapshot_stale_seconds", "0+60x60"),
                      [one("tidemark_tier_snapshot_stale_seconds", "0+60x14 0x46")]),
    # Then: it takes some minutes.
    "RestoreWaits": (one("tidemark_partitions_awaiting_backup", "0x5 3x55"),
                     [one("tidemark_partitions_awaiting_backup", "0x5 3x8 0x47")]),
    "TierReserveLow": (reserve("0x5 60x55"), [reserve("40x60"), reserve("0x9 60x1 0x50"), reserve("0x60", "0x60")]),
    "AckLatency": (histogram("tidemark_produce_ack_duration_seconds", f'{A},acks="all"', 90, 60),
                   [histogram("tidemark_produce_ack_duration_seconds", f'{A},acks="all"', 1000, 2),
                    histogram("tidemark_produce_ack_duration_seconds", f'{A},acks="1"', 90, 60)]),
    "FsyncSlow": (histogram("tidemark_wal_fsync_duration_seconds", A, 90, 60),
                  [histogram("tidemark_wal_fsync_duration_seconds", A, 1000, 2)]),
    "FollowerLagging": (one("tidemark_follower_lag_max_records", "0x5 50000x55"),
                        [one("tidemark_follower_lag_max_records", "0x9 50000x5 0x45"),
                         one("tidemark_follower_lag_max_records", "900x60")]),
    "UncleanElection": (one("tidemark_unclean_elections_total", "0x20 1x40"),
                        [one("tidemark_unclean_elections_total", "2x60")]),
    "ProduceErrors": (one("tidemark_request_errors_total", "0+600x60", ERRORS),
                      [one("tidemark_request_errors_total", "0x9 0+300x1 600x48", ERRORS),
                       one("tidemark_request_errors_total", "0+600x60", f'{A},api="Fetch",error="NOT_LEADER_OR_FOLLOWER"')]),
    "GroupLagTime": (one("tidemark_group_lag_seconds", "0+60x60", f'{A},group="g"'),
                     [one("tidemark_group_lag_seconds", "0+60x8 0x51", f'{A},group="g"')]),
    # Then: it works; it has nothing to do; it has no members.
    "GroupStuck": (group("10+10x60", "2x60", "100x60"),
                   [group("10+10x60", "2x60", "100+5x60"), group(UP, "2x60", "100x60"), group("10x60", UP, "100x60")]),
    # In thirteen days; in a month; one that was renewed an hour before its time.
    "CertificateExpiring": (one("tidemark_certificate_expiry_timestamp_seconds", "1123200x60", TLS),
                            [one("tidemark_certificate_expiry_timestamp_seconds", "2592000x60", TLS),
                             one("tidemark_certificate_expiry_timestamp_seconds", "1123200x9 31536000x50", TLS)]),
    # A minute ahead. Then: in step; set right within minutes.
    "ClockSkew": (one("tidemark_clock_timestamp_seconds", "60+60x60"),
                  [one("tidemark_clock_timestamp_seconds", "1+60x60"),
                   one("tidemark_clock_timestamp_seconds", "60+60x4 300+60x55")]),
    # Then: it gets on in time; it waits for nothing.
    "RollBlocked": (one("tidemark_cluster_roll_waiting_seconds", "0x3 0+60x56", ROLL.format("MinIsr")),
                    [one("tidemark_cluster_roll_waiting_seconds", "0+60x14 0+60x14 0x30", ROLL.format("MinIsr")),
                     one("tidemark_cluster_roll_waiting_seconds", UP, ROLL.format("None"))]),
    # None leads; one is not scraped, and the other waits. Then: one leads; they take turns; there is none to be scraped.
    "OperatorDown": ({**one("tidemark_operator_leader", "1x5 0x55", OPERATOR), **one("up", "1x60", OPERATOR)},
                     [{**one("tidemark_operator_leader", "1x60", OPERATOR),
                       **one("tidemark_operator_leader", UP, OPERATOR.replace('"o"', '"p"'))},
                      {**one("tidemark_operator_leader", "1x20 _x40", OPERATOR),
                       **one("tidemark_operator_leader", "0x21 1x39", OPERATOR.replace('"o"', '"p"')),
                       **one("up", "1x20 0x40", OPERATOR)},
                      one("up", UP, A)]),
    "ReconcileFailing": (one("tidemark_operator_reconciles_total", "0+6x60", FAILING.format("error")),
                         [one("tidemark_operator_reconciles_total", "0+6x60", FAILING.format("done")),
                          one("tidemark_operator_reconciles_total", "0x9 0+6x1 6x48", FAILING.format("error"))]),
    "GroupRebalancing": (one("tidemark_group_rebalances_total", "0+2x60", f'{A},group="g"'),
                         [one("tidemark_group_rebalances_total", "0x9 0+1x5 6x45", f'{A},group="g"')]),
    # Then: all alike; little; the only one of its topic.
    "PartitionHot": (hot(600_000_000, 6_000_000, 6_000_000),
                     [hot(600_000_000, 600_000_000, 600_000_000), hot(600_000, 6_000, 6_000), hot(600_000_000)]),
}


# A roll as it should be: one broker after the other is down for two minutes, catches up for two, and is well for four.
BROKERS, DOWN, BEHIND, EACH, FIRST, MINUTES = "abc", 2, 2, 8, 10, 60


def roll(halts=False):
    """What is scraped of three brokers and their operator during a safe roll; with `halts` the second one never comes back."""

    def phase(broker, minute):
        since = minute - FIRST - EACH * BROKERS.index(broker)
        if halts and broker == "c":
            return "well"  # The roll went no further.
        if since < 0 or (since >= DOWN + BEHIND and not (halts and broker == "b")):
            return "well"
        return "down" if since < DOWN or halts and broker == "b" else "behind"

    def of(broker, name, value, labels=""):
        """A series of a broker: a value for each minute; none while it is down."""
        told = [value(minute) if phase(broker, minute) != "down" else "_" for minute in range(MINUTES)]
        return {f'{name}{{job="tidemark",instance="{broker}"{labels}}}': " ".join(map(str, told))}

    def away(broker, minute):
        """Whether another one is not in sync, which a leader sees."""
        return any(phase(other, minute) != "well" for other in BROKERS if other != broker)

    def begun(minute):
        """Restarts that have begun."""
        return sum(minute >= FIRST + EACH * at for at in range(2 if halts else 3))

    series = {}
    for broker in BROKERS:
        series[f'up{{job="tidemark",instance="{broker}"}}'] = " ".join(
            "0" if phase(broker, minute) == "down" else "1" for minute in range(MINUTES))
        series |= of(broker, "tidemark_ready", lambda m: int(phase(broker, m) == "well"))
        for name, amiss in (("under_replicated_partitions", 8), ("at_min_isr_partitions", 8), ("fenced_brokers", 1),
                            ("follower_lag_max_records", 50_000)):
            series |= of(broker, f"tidemark_{name}", lambda m: amiss * away(broker, m))
        for name in ("leaderless_partitions", "under_min_isr_partitions", "partitions_offline", "unclean_elections_total",
                     "partitions_awaiting_backup", "data_directory_failed"):
            series |= of(broker, f"tidemark_{name}", lambda m: 0)
        # The last one to be restarted is the controller until then.
        series |= of(broker, "tidemark_active_controller",
                     lambda m: int(broker == ("c" if m < FIRST + 2 * EACH or halts else "a")))
        # Producers hear of another leader, acknowledgements are slow for a minute, and groups move once.
        series |= of(broker, "tidemark_request_errors_total", lambda m: 40 * begun(m), ',api="Produce",error="NOT_LEADER_OR_FOLLOWER"')
        for le, share in (("0.05", 1000), ("0.2", 1005), ("1", 1010), ("+Inf", 1010)):
            for name, more in (("produce_ack_duration_seconds", ',acks="all"'), ("wal_fsync_duration_seconds", "")):
                series |= of(broker, f"tidemark_{name}_bucket", lambda m: share * m, f'{more},le="{le}"')
        series |= of(broker, "tidemark_group_rebalances_total", lambda m: 2 * begun(m), ',group="g"')
        series |= of(broker, "tidemark_group_lag_seconds", lambda m: 40 * away(broker, m), ',group="g"')
        series |= of(broker, "tidemark_group_lag_records", lambda m: 4000 * away(broker, m), ',group="g"')
        series |= of(broker, "tidemark_group_members", lambda m: 2, ',group="g"')
        series |= of(broker, "tidemark_group_committed_offset_sum", lambda m: 1000 * (m // 3), ',group="g"')
        series |= of(broker, "tidemark_tier_lag_seconds", lambda m: 60 + 60 * away(broker, m))
        series |= of(broker, "tidemark_tier_snapshot_stale_seconds", lambda m: 0)
        series |= of(broker, "tidemark_tier_failures_total", begun, ',outcome="superseded"')
        series |= of(broker, "tidemark_disk_online", lambda m: 1, ',directory="/data"')
        series |= of(broker, "tidemark_disk_read_only", lambda m: 0, ',directory="/data"')
        series |= of(broker, "tidemark_disk_free_bytes", lambda m: 90_000_000_000 - 10_000_000 * m, ',directory="/data"')
        series |= of(broker, "tidemark_disk_capacity_bytes", lambda m: 100_000_000_000, ',directory="/data"')
        series |= of(broker, "tidemark_clock_timestamp_seconds", lambda m: 60 * m)
        series |= of(broker, "tidemark_certificate_expiry_timestamp_seconds", lambda m: 20_000_000, ',listener="TLS"')
    by_minute = lambda value: " ".join(str(value(minute)) for minute in range(MINUTES))
    series[f"up{{{OPERATOR}}}"] = series[f"tidemark_operator_leader{{{OPERATOR}}}"] = by_minute(lambda m: 1)
    series[f"tidemark_operator_reconciles_total{{{FAILING.format('error')}}}"] = by_minute(begun)
    series[f"tidemark_cluster_roll_waiting_seconds{{{ROLL.format('IsrCatchUp')}}}"] = by_minute(
        lambda m: 60 * ((m - FIRST) % EACH) if FIRST <= m < FIRST + 3 * EACH and not halts else 60 * max(0, m - FIRST - EACH) * halts)
    return series


def rules():
    return [rule for g in yaml.safe_load(RULES.read_text())["groups"] for rule in g["rules"]]


def alerts():
    return {rule["alert"]: rule for rule in rules() if "alert" in rule}


def check(promtool):
    """Raises unless every rule has its cases and its page, and promtool agrees."""
    assert set(CASES) == set(alerts()), f"without a case or a rule: {set(CASES) ^ set(alerts())}"
    pages = {path.stem for path in RUNBOOKS.glob("*.md")} - {"README"}
    assert pages == set(alerts()), f"without a runbook or a rule: {pages ^ set(alerts())}"
    index = (RUNBOOKS / "README.md").read_text()
    for name, rule in alerts().items():
        assert rule["annotations"]["runbook_url"] == f"docs/runbooks/{name}.md", name
        assert f"({name}.md)" in index, f"{name} is not in the index of runbooks"
        assert "{{ " in rule["annotations"]["description"], f"{name} tells no value"
    tests = []
    for name, (fires, quiets) in CASES.items():
        expr = f'count(ALERTS{{alertname="{name}",alertstate="firing"}})'

        def case(series, when, samples):
            listed = [{"series": s, "values": v} for s, v in series.items()]
            asked = [{"expr": expr, "eval_time": at, "exp_samples": samples} for at in when]
            return {"interval": "1m", "name": name, "input_series": listed, "promql_expr_test": asked}

        tests.append(case(fires, ["35m"], [{"labels": "{}", "value": 1}]))
        tests += [case(quiet, [f"{at}m" for at in range(1, 60)], []) for quiet in quiets]
    def whole(name, series, asked):
        listed = [{"series": s, "values": v} for s, v in series.items()]
        return {"interval": "1m", "name": name, "input_series": listed, "promql_expr_test": asked}

    firing = 'count by (alertname) (ALERTS{alertstate="firing"})'
    named = {rule for name in alerts() for rule in re.findall(r"\btidemark_[a-z_]+", alerts()[name]["expr"])}
    rolled = {re.match(r"\w+", one)[0] for one in roll()}
    # What only has a part in a roll that goes wrong in its own way.
    left = named - rolled - {"tidemark_tier_held_back_bytes", "tidemark_tier_reserve_bytes"}
    assert not left, f"the roll tells nothing of {left}"
    tests.append(whole("a safe roll", roll(), [{"expr": firing, "eval_time": f"{at}m", "exp_samples": []} for at in range(1, MINUTES)]))
    halted = ["AtMinIsr", "BrokerDown", "BrokerFenced", "FollowerLagging", "RollBlocked", "UnderReplicated"]
    tests.append(whole("a roll that halts", roll(halts=True), [{"expr": firing, "eval_time": "55m", "exp_samples": [
        {"labels": f'{{alertname="{name}"}}', "value": 2 if name == "FollowerLagging" else 1} for name in halted]}]))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tests.yaml"
        path.write_text(json.dumps({"rule_files": [str(RULES)], "evaluation_interval": "1m", "tests": tests}))
        done = subprocess.run([promtool, "test", "rules", path], capture_output=True, text=True)
    if done.returncode:
        raise AssertionError(re.sub(r"\n\s*\n", "\n", done.stdout + done.stderr)[:6000])
    return len(tests)


if __name__ == "__main__":
    print(check(sys.argv[1]), "cases")

"""Judges what producers and consumers of a cluster went through. Pure: lists in, sentences out.

An event is a list, times are seconds of one monotonic clock of the machine:

  ["sent", t, topic, key, n]                      before a producer takes record n of a key, n from 0 without gaps
  ["acked", t, topic, key, n, partition, offset]  offset -1: written, but nobody knows where (a repeated idempotent produce)
  ["failed", t, topic, key, n, why]               given up: the record may be in the log, once, or not
  ["assigned", t, topic, member, partition]       a member of the one group that reads the topic starts on a partition
  ["seen", t, topic, member, partition, offset, key, n]
  ["committed", t, topic, member, partition, offset]   acknowledged: the next offset to read

A log is {(topic, partition): [(offset, key, n), ...]} as read back when all is over.
"""

from collections import defaultdict

SHOWN = 3


def judge(events, log, read_by_group=()):
    """What is wrong, one sentence each; nothing when all is well. `read_by_group`: the topics that a group had to read to the end."""
    wrong = []
    sent, acked = _producers(events, wrong)
    content = _logs(log, sent, wrong)
    _acknowledged(acked, content, log, wrong)
    _consumers([e for e in events if e[0] in ("assigned", "seen", "committed")], content, read_by_group, wrong)
    return wrong


def longest_gap(times, since, until):
    """The longest time within [since, until] without any of the times, in seconds."""
    marks = [since, *sorted(t for t in times if since <= t <= until), until]
    return max(after - before for before, after in zip(marks, marks[1:]))


def _some(wrong, what, found):
    if found:
        wrong.append(f"{len(found)} {what}, first {', '.join(map(str, found[:SHOWN]))}")


def _producers(events, wrong):
    """What was sent, as {(topic, key): number of records}, and the acknowledgements."""
    sent, acked = defaultdict(int), []
    gaps = []
    for event in events:
        if event[0] == "sent":
            _, _, topic, key, n = event
            if n != sent[topic, key]:
                gaps.append(f"{topic} {key}: {n} after {sent[topic, key] - 1}")
            sent[topic, key] = n + 1
        elif event[0] == "acked":
            acked.append(event)
    _some(wrong, "numbers skipped by the producer itself", gaps)
    return sent, acked


def _logs(log, sent, wrong):
    """The content as {(topic, partition): {offset: (key, n)}}, judged for itself."""
    content, where = {}, {}
    twice, backward, disordered, unknown, strayed = [], [], [], [], []
    for (topic, partition), rows in log.items():
        at, held, last_offset, last_n = f"{topic}-{partition}", {}, -1, {}
        for offset, key, n in rows:
            if offset in held or offset <= last_offset:
                backward.append(f"{at}: offset {offset} after {last_offset}")
            if (topic, key, n) in where:
                twice.append(f"{key} {n} at {where[topic, key, n]} and {at} offset {offset}")
            elif n < last_n.get(key, -1):
                disordered.append(f"{at}: {key} {n} after {last_n[key]}")
            if where.get((topic, key), partition) != partition:
                strayed.append(f"{topic} {key} in {where[topic, key]} and {partition}")
            if n >= sent.get((topic, key), 0):
                unknown.append(f"{at} offset {offset}: {key} {n}")
            where[topic, key] = partition
            where[topic, key, n] = f"{at} offset {offset}"
            held[offset], last_offset, last_n[key] = (key, n), offset, n
        content[topic, partition] = held
    _some(wrong, "records are in the log twice", twice)
    _some(wrong, "offsets do not rise in the log", backward)
    _some(wrong, "records are out of their producer's order", disordered)
    _some(wrong, "keys are in two partitions", strayed)
    _some(wrong, "records in the log were never sent", unknown)
    return content


def _acknowledged(acked, content, log, wrong):
    present = {(topic, key, n) for (topic, _), rows in log.items() for _, key, n in rows}
    lost, moved, shared, claimed, again = [], [], [], {}, set()
    seen = set()
    for _, _, topic, key, n, partition, offset in acked:
        record = (topic, key, n)
        if record in seen:
            again.add(record)
        seen.add(record)
        if record not in present:
            lost.append(f"{topic}-{partition} {key} {n}, acknowledged at {offset}")
        elif offset >= 0 and content.get((topic, partition), {}).get(offset) != (key, n):
            moved.append(f"{topic}-{partition} {key} {n}, acknowledged at {offset}")
        if offset >= 0 and claimed.setdefault((topic, partition, offset), record) != record:
            shared.append(f"{topic}-{partition} offset {offset}: {claimed[topic, partition, offset][1:]} and {record[1:]}")
    _some(wrong, "acknowledged records are lost", lost)
    _some(wrong, "acknowledged records are not at the offset they were acknowledged at", moved)
    _some(wrong, "offsets were acknowledged for two records", shared)
    _some(wrong, "records were acknowledged twice", sorted(again))


def _consumers(events, content, read_by_group, wrong):
    positions, committed, owners, seen = {}, defaultdict(int), {}, defaultdict(set)
    rewound, backward, other, unread_commits = [], [], [], []
    for event in sorted(events, key=lambda e: e[1]):
        kind, _, topic, member, partition = event[:5]
        at = (topic, partition)
        name = f"{topic}-{partition}"
        if kind == "assigned":
            owners[at] = member
            positions[at, member] = None, committed[at]
        elif kind == "committed":
            offset = event[5]
            # A commit of an earlier owner that arrives late is refused by the group, so that commits only rise.
            if offset < committed[at]:
                backward.append(f"{name}: {member} committed {offset} after {committed[at]}")
            if offset > 0 and offset - 1 > max(seen[at], default=-1):
                unread_commits.append(f"{name}: {member} committed {offset}")
            committed[at] = max(committed[at], offset)
        else:
            offset, key, n = event[5:]
            last, floor = positions.get((at, member), (None, 0))
            if last is None and offset < floor:
                rewound.append(f"{name}: {member} started at {offset}, though {floor} was committed")
            if last is not None and offset <= last:
                backward.append(f"{name}: {member} got {offset} after {last}")
            positions[at, member] = offset, floor
            seen[at].add(offset)
            if content.get(at, {}).get(offset) != (key, n):
                other.append(f"{name} offset {offset}: {key} {n}, now {content.get(at, {}).get(offset)}")
    unseen = [f"{topic}-{partition} offset {offset}" for (topic, partition), rows in content.items()
              if topic in read_by_group for offset in rows if offset not in seen[topic, partition]]
    _some(wrong, "records that a consumer saw are not what the log holds there", other)
    _some(wrong, "consumers' offsets went backward", backward)
    _some(wrong, "members started before the group's committed offset", rewound)
    _some(wrong, "commits were beyond what was read", unread_commits)
    _some(wrong, "records were seen by no member of the group", unseen)

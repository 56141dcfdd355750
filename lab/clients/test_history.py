"""The judge of cluster histories finds what is wrong in histories made by hand."""

import pytest

from labkit.history import judge, longest_gap


def history():
    """A good one: two keys on two partitions, two members, one of which takes over."""
    events = []
    log = {("t", 0): [], ("t", 1): []}
    at = 0.0
    for n in range(6):
        for partition, key in enumerate(["a", "b"]):
            events.append(["sent", at, "t", key, n])
            events.append(["acked", at + 0.5, "t", key, n, partition, n])
            log["t", partition].append((n, key, n))
            at += 1
    events += [["assigned", 1.0, "t", "m1", 0], ["assigned", 1.0, "t", "m2", 1]]
    for n in range(3):
        events.append(["seen", 20.0 + n, "t", "m1", 0, n, "a", n])
    events += [["committed", 24.0, "t", "m1", 0, 2], ["assigned", 25.0, "t", "m2", 0]]
    # What was seen and not committed is seen again.
    for n in range(2, 6):
        events.append(["seen", 26.0 + n, "t", "m2", 0, n, "a", n])
    for n in range(6):
        events.append(["seen", 26.5 + n, "t", "m2", 1, n, "b", n])
    events.append(["committed", 40.0, "t", "m2", 1, 6])
    return events, log


def test_a_good_history_is_good():
    events, log = history()
    assert judge(events, log, ["t"]) == []


def lost(events, log):
    log["t", 0].pop(3)


def lost_in_the_end(events, log):
    log["t", 1].pop()


def duplicated(events, log):
    log["t", 0].append((6, "a", 3))


def out_of_order(events, log):
    log["t", 0][2], log["t", 0][3] = (2, "a", 3), (3, "a", 2)


def moved(events, log):
    log["t", 0] = [(offset + 1, key, n) for offset, key, n in log["t", 0]]


def two_at_one_offset(events, log):
    events[:] = [["acked", e[1], "t", "b", 5, 1, 4] if e[0] == "acked" and e[3:5] == ["b", 5] else e for e in events]


def never_sent(events, log):
    log["t", 0].append((6, "a", 6))


def other_partition(events, log):
    log["t", 0].append((6, "b", 5))
    log["t", 1].pop()


def an_offset_twice(events, log):
    events.append(["sent", 50.0, "t", "a", 6])
    log["t", 0].append((5, "a", 6))


def acknowledged_twice(events, log):
    events.append(["acked", 60.0, "t", "a", 2, 0, 2])


def seen_and_gone(events, log):
    """A consumer read what a later leader replaced."""
    events.append(["seen", 22.5, "t", "m1", 0, 3, "a", 5])


def backward_in_a_member(events, log):
    events.append(["seen", 35.0, "t", "m2", 0, 3, "a", 3])


def before_the_commit(events, log):
    events.append(["seen", 25.5, "t", "m2", 0, 1, "a", 1])


def commit_backward(events, log):
    events.append(["committed", 41.0, "t", "m2", 1, 3])


def commit_of_the_unread(events, log):
    events.append(["committed", 19.0, "t", "m1", 0, 2])


def unseen(events, log):
    events[:] = [e for e in events if not (e[0] == "seen" and e[4:6] == [1, 4])]


@pytest.mark.parametrize("spoil, said", [
    (lost, "acknowledged records are lost"),
    (lost_in_the_end, "acknowledged records are lost"),
    (duplicated, "in the log twice"),
    (out_of_order, "out of their producer's order"),
    (moved, "not at the offset they were acknowledged at"),
    (two_at_one_offset, "acknowledged for two records"),
    (never_sent, "never sent"),
    (other_partition, "keys are in two partitions"),
    (an_offset_twice, "offsets do not rise"),
    (acknowledged_twice, "acknowledged twice"),
    (seen_and_gone, "not what the log holds"),
    (backward_in_a_member, "went backward"),
    (before_the_commit, "before the group's committed offset"),
    (commit_backward, "went backward"),
    (commit_of_the_unread, "beyond what was read"),
    (unseen, "seen by no member"),
], ids=lambda value: getattr(value, "__name__", None))
def test_a_bad_history_is_found_out(spoil, said):
    events, log = history()
    spoil(events, log)
    assert any(said in one for one in judge(events, log, ["t"])), judge(events, log, ["t"])


def test_a_record_that_was_given_up_may_be_there_once_or_not():
    events, log = history()
    events += [["sent", 50.0, "t", "a", 6], ["failed", 60.0, "t", "a", 6, "timed out"]]
    assert judge(events, log) == []
    log["t", 0].append((6, "a", 6))
    assert judge(events, log) == []
    log["t", 0].append((7, "a", 6))
    assert judge(events, log) != []


def test_an_acknowledgement_without_an_offset_asks_only_that_the_record_is_there():
    events, log = history()
    events[:] = [[*e[:6], -1] if e[0] == "acked" else e for e in events]
    assert judge(events, log, ["t"]) == []
    log["t", 0].pop(2)
    assert any("lost" in one for one in judge(events, log))


def test_gaps_count_from_the_beginning_and_to_the_end():
    assert longest_gap([], 1.0, 4.0) == 3.0
    assert longest_gap([1.5, 2.0], 1.0, 4.0) == 2.0
    assert longest_gap([0.0, 3.5, 9.0], 1.0, 4.0) == 2.5
    assert longest_gap([1.5, 3.5], 1.0, 4.0) == 2.0

"""Until there are transactions: one clear answer at once, and no hang."""

import pytest

from labkit import admin
from labkit.paths import unique
from labkit.workers import CLIENTS_BY_NAME, WorkerError

NAMES = [c.name for c in CLIENTS_BY_NAME.values() if c.transactions]


@pytest.mark.ours
@pytest.mark.parametrize("name", NAMES)
def test_a_transactional_producer_is_refused_at_once(worker, bootstrap, name):
    with pytest.raises(WorkerError) as refused:
        worker(name).call("txn", bootstrap=bootstrap, transactional_id=unique("txn"))
    answer = refused.value.answer
    assert not answer.get("retriable"), answer
    assert answer["elapsed_ms"] < 5000, answer
    assert "timeout" not in answer["error"].lower() and "timed out" not in answer["error"].lower(), answer


def test_nothing_of_it_harms_the_broker(worker, bootstrap, make_topic):
    topic = make_topic()
    from labkit.workers import record

    worker("java-4.3").call("produce", bootstrap=bootstrap, topic=topic, idempotent=True, records=[record(b"after", partition=0)])
    admin.read_all(bootstrap, topic, expect=1)

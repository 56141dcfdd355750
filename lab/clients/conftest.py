"""One broker for all workers of a run, and client workers kept between tests.

The broker under test is $TIDEMARK_BIN (target/debug/tidemark), or with
PEER=kafka Apache Kafka: what a test asks of us, it asks of Kafka as well.
$LAB_BOOTSTRAP names a broker that runs already.
"""

import os
import shutil
import tempfile

import pytest

from labkit import admin
from labkit.broker import Broker
from labkit.paths import PEER, unique
from labkit.workers import Worker

_shared = None


def pytest_configure(config):
    global _shared
    if hasattr(config, "workerinput") or config.option.collectonly:
        return
    os.environ["LAB_RUN_DIR"] = config.lab_run_dir = tempfile.mkdtemp(prefix="tidemark-lab-")
    if not os.environ.get("LAB_BOOTSTRAP"):
        _shared = Broker(name="shared").start()
        os.environ["LAB_BOOTSTRAP"] = _shared.bootstrap
        os.environ["LAB_SHARED_DATA"] = str(_shared.data)
        config.lab_owns_bootstrap = True


def pytest_unconfigure(config):
    if _shared is not None:
        ended = _shared.process.poll()
        if ended is not None:
            print(f"\nTHE SHARED BROKER ENDED with {ended}:\n{_shared.log_tail(60)}")
        else:
            _shared.stop()
        os.environ.pop("LAB_BOOTSTRAP", None)
    run_dir = getattr(config, "lab_run_dir", None)
    if run_dir and not os.environ.get("LAB_KEEP"):
        shutil.rmtree(run_dir, ignore_errors=True)
    elif run_dir:
        print(f"\nkept: {run_dir}")


def pytest_sessionfinish(session, exitstatus):
    if _shared is not None and _shared.process.poll() is not None and exitstatus == 0:
        session.exitstatus = 1


def pytest_collection_modifyitems(items):
    for item in items:
        if PEER != "tidemark" and item.get_closest_marker("ours"):
            item.add_marker(pytest.mark.skip(reason="asks what only tidemark does"))


@pytest.fixture(scope="session")
def bootstrap():
    return os.environ["LAB_BOOTSTRAP"]


@pytest.fixture(scope="session")
def shared_data():
    return os.environ.get("LAB_SHARED_DATA")


_workers = {}


@pytest.fixture(scope="session", autouse=True)
def _end_workers():
    yield
    for worker in _workers.values():
        worker.close()


@pytest.fixture
def worker():
    """worker(name): the running process of that client, shared by this run's tests."""

    def get(name):
        found = _workers.get(name)
        if found is None or not found.alive():
            found = _workers[name] = Worker(name)
        return found

    return get


@pytest.fixture
def own_worker():
    """own_worker(name): a client process for this test alone (it may be killed)."""
    started = []

    def get(name):
        started.append(Worker(name))
        return started[-1]

    yield get
    for one in started:
        one.close()


@pytest.fixture
def make_topic(bootstrap):
    """make_topic(partitions, config) on the shared broker: its name."""

    def make(partitions=1, config=None, stem="t"):
        name = unique(stem)
        admin.create(bootstrap, name, partitions, config)
        return name

    return make


@pytest.fixture
def own_broker():
    """own_broker(settings): a broker for this test alone."""
    made = []

    def make(settings=None, start=True, **more):
        one = Broker(settings=settings, name="own", **more)
        made.append(one)
        return one.start() if start else one

    yield make
    for one in made:
        one.discard()

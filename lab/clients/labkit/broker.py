"""The broker under test: the built `tidemark dev`, or Apache Kafka as the peer."""

import os
import re
import signal
import subprocess
import tempfile
import shutil
from pathlib import Path

from .paths import LAB, PEER, TIDEMARK, free_port, wait_until

# Short timeouts let tests of crashes end quickly; both brokers take the names.
COMMON = {
    "group.min.session.timeout.ms": "500",
    "group.initial.rebalance.delay.ms": "0",
    "offsets.topic.num.partitions": "4",
    "log.retention.check.interval.ms": "1000",
    "log.cleaner.enable": "false",
    "num.partitions": "1",
}


class Broker:
    """One broker on loopback with its own data directory."""

    def __init__(self, kind=None, data=None, settings=None, port=None, name="broker", arguments=()):
        self.kind = kind or PEER
        root = Path(os.environ.get("LAB_RUN_DIR") or tempfile.gettempdir())
        self.owns_data = data is None
        self.data = Path(data or tempfile.mkdtemp(prefix=f"{name}-", dir=root))
        self.port = port or free_port()
        self.controller_port = free_port() if self.kind == "kafka" else None
        self.settings = {**COMMON, **(settings or {})}
        self.arguments = list(arguments)  # more of them for `tidemark dev`
        self.process = None
        self.log_path = self.data.with_name(self.data.name + ".log")

    @property
    def bootstrap(self):
        return f"127.0.0.1:{self.port}"

    def start(self, seconds=60):
        if self.kind == "kafka":
            command = [str(LAB / "bin" / "kafka-broker"), "start", "--foreground", "--data", str(self.data),
                       "--port", str(self.port), "--controller-port", str(self.controller_port)]
            ready = re.compile(r"Kafka Server started")
        else:
            command = [str(TIDEMARK), "dev", "--listen", self.bootstrap, "--data", str(self.data), *self.arguments]
            ready = re.compile(r"\bready\b")
        for name, value in self.settings.items():
            command += ["--set", f"{name}={value}"]
        env = {**os.environ}
        env.setdefault("KAFKA_HEAP_OPTS", "-Xmx768m -Xms256m")
        at = self.log_path.stat().st_size if self.log_path.exists() else 0
        with open(self.log_path, "ab") as log:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=env,
                                            start_new_session=True)

        def came_up():
            if self.process.poll() is not None:
                raise AssertionError(f"the broker ended at start with {self.process.returncode}:\n{self.log_tail()}")
            with open(self.log_path, "rb") as log:
                log.seek(at)
                return ready.search(log.read().decode(errors="replace"))

        try:
            wait_until(came_up, seconds, f"`{' '.join(command[:2])}` being ready", every=0.02)
        except BaseException:
            self.kill()
            raise
        return self

    def log_tail(self, lines=40):
        return "\n".join(self.log().splitlines()[-lines:])

    def log(self):
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def alive(self):
        return self.process is not None and self.process.poll() is None

    def kill(self):
        """kill -9"""
        if self.process and self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
        if self.process:
            self.process.wait(30)

    def stop(self, seconds=30):
        """SIGTERM, and the exit code."""
        if self.process and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(seconds)
            except subprocess.TimeoutExpired:
                self.kill()
                raise AssertionError(f"the broker did not stop within {seconds} s of SIGTERM:\n{self.log_tail()}")
        return self.process.returncode if self.process else None

    def restart(self, how="kill"):
        (self.kill if how == "kill" else self.stop)()
        return self.start()

    def partition_dir(self, topic, partition):
        """The folder of a partition, wherever the broker keeps it below its data."""
        wanted = f"{topic}-{partition}"
        found = [p for p in self.data.rglob(wanted) if p.is_dir()]
        assert found, f"no folder {wanted} below {self.data}"
        return found[0]

    def discard(self):
        self.kill()
        if self.owns_data:
            shutil.rmtree(self.data, ignore_errors=True)

    def __enter__(self):
        return self.start()

    def __exit__(self, kind, *_):
        self.kill()
        if kind is None:
            self.discard()


def tool(name, *args, stdin=None, seconds=60, check=True):
    """Runs one of Apache Kafka's tool classes: its standard output."""
    done = subprocess.run([str(LAB / "bin" / "kafka"), name, *map(str, args)], input=stdin, text=True,
                          capture_output=True, timeout=seconds)
    if check and done.returncode != 0:
        raise AssertionError(f"{name} {' '.join(map(str, args))} gave {done.returncode}\n{done.stdout}\n{done.stderr}")
    return done.stdout if check else done


def tidemark(*args, stdin=None, seconds=60, check=True):
    """Runs the command line under test: its standard output."""
    done = subprocess.run([str(TIDEMARK), *map(str, args)], input=stdin, text=True, capture_output=True,
                          timeout=seconds)
    if check and done.returncode != 0:
        raise AssertionError(f"tidemark {' '.join(map(str, args))} gave {done.returncode}\n{done.stdout}\n{done.stderr}")
    return done.stdout if check else done

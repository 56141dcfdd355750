"""A worker process for the Python clients, the old librdkafkas and kcat.

Operations (the Java and Node workers have the same):
  produce  bootstrap topic codec acks idempotent props records -> offsets [[partition, offset], ...]
  consume  bootstrap topic partition steps [{from, count}] timeout_ms -> records (one consumer, seeking for each step);
           from: "beginning" | "end" | {"offset": n} | {"time": ms}; the note "positioned" comes before an "end" step reads
  member_start  member bootstrap group topics assignor instance_id session_timeout_ms commit
  member_stop   member (leaves its group)
  txn      bootstrap transactional_id -> ok only where transactions work; else error, retriable, elapsed_ms
Events of members: assigned {partitions, revoked: between two assignments}, records {records: [[topic, partition, offset, text]]}, left, error.
"""

import faulthandler
import json
import signal
import sys
import threading
import traceback

_out = threading.Lock()


def emit(answer):
    with _out:
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


class Members:
    """Group members, each a thread with its own client and a stop flag."""

    def __init__(self, run):
        self.run = run
        self.threads = {}

    def start(self, request):
        stop = threading.Event()
        name = request["member"]

        def body():
            try:
                self.run(request, stop, lambda ev, **f: emit({"member": name, "ev": ev, **f}))
                emit({"member": name, "ev": "left"})
            except Exception as error:  # a test must hear of it, whatever it is
                traceback.print_exc()
                emit({"member": name, "ev": "error", "error": f"{type(error).__name__}: {error}"})

        thread = threading.Thread(target=body, daemon=True)
        self.threads[name] = (thread, stop)
        thread.start()

    def stop(self, request):
        thread, stop = self.threads.pop(request["member"])
        stop.set()
        thread.join(20)
        if thread.is_alive():
            raise TimeoutError("the member did not leave within 20 s")


def serve(client):
    members = Members(client.member)

    def handle(request):
        number = request["id"]
        try:
            op = request["op"]
            if op == "member_start":
                members.start(request)
                answer = {}
            elif op == "member_stop":
                members.stop(request)
                answer = {}
            elif op == "consume":
                answer = client.consume(request, lambda ev: emit({"id": number, "ev": ev}))
            else:
                answer = getattr(client, op)(request)
            emit({"id": number, "ok": True, **answer})
        except Exception as error:  # the answer carries it
            traceback.print_exc()
            emit({"id": number, "ok": False, "error": describe(error), "retriable": retriable(error),
                  **getattr(error, "fields", {})})

    for line in sys.stdin:
        threading.Thread(target=handle, args=(json.loads(line),), daemon=True).start()


def describe(error):
    if error.args and hasattr(error.args[0], "name") and callable(error.args[0].name):
        return f"{error.args[0].name()}: {error.args[0].str()}"
    return f"{type(error).__name__}: {error}"


def retriable(error):
    if error.args and hasattr(error.args[0], "retriable"):
        return error.args[0].retriable()
    return bool(getattr(error, "retriable", False))


if __name__ == "__main__":
    faulthandler.register(signal.SIGUSR1)  # shows where a client hangs
    kind = sys.argv[1]
    if kind == "confluent":
        from .client_confluent import Confluent as Kind
    elif kind == "kafka-python":
        from .client_kafka_python import KafkaPython as Kind
    elif kind == "aiokafka":
        from .client_aiokafka import AioKafka as Kind
    elif kind == "kcat":
        from .client_kcat import Kcat as Kind
    elif kind.startswith("librdkafka-"):
        from .client_old_librdkafka import OldLibrdkafka

        def Kind():
            return OldLibrdkafka(kind.split("-")[1])
    else:
        sys.exit(f"no client named {kind}")
    serve(Kind())

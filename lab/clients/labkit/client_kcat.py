"""kcat, driven as a person would: arguments and pipes."""

import json
import subprocess

from .workers import b64, unb64

FIELD = b"\x1f"
RECORD = b"\x1e"


class Kcat:
    def produce(self, request):
        # kcat takes keys and values from a stream and headers from its arguments:
        # records go in runs that share their partition and headers.
        offsets = []
        for r in request["records"]:
            command = ["kcat", "-P", "-b", request["bootstrap"], "-t", request["topic"],
                       "-z", request.get("codec", "none"), "-K", FIELD.decode(), "-D", RECORD.decode(), "-Z",
                       "-X", "acks=all", "-X", f"enable.idempotence={str(request.get('idempotent', False)).lower()}",
                       "-X", "message.max.bytes=4000000"]
            if "p" in r:
                command += ["-p", str(r["p"])]
            for name, value in r.get("h", []):
                command += ["-H", f"{name}={unb64(value).decode()}"]
            offsets.append((command, (unb64(r["k"]) or b"") + FIELD + (unb64(r["v"]) or b"")))
        runs = []
        for command, line in offsets:
            if runs and runs[-1][0] == command:
                runs[-1][1].append(line)
            else:
                runs.append((command, [line]))
        for command, lines in runs:
            done = subprocess.run(command, input=RECORD.join(lines), capture_output=True, timeout=30)
            if done.returncode:
                raise RuntimeError(done.stderr.decode())
        return {"offsets": None}

    def consume(self, request, note):
        out = []
        for step in request["steps"]:
            start = step["from"]
            if start in ("beginning", "end"):
                at = start
            elif "offset" in start:
                at = str(start["offset"])
            else:
                at = f"s@{start['time']}"
            command = ["kcat", "-C", "-q", "-b", request["bootstrap"], "-t", request["topic"], "-o", at,
                       "-p", str(request.get("partition", 0)), "-c", str(step["count"]), "-J",
                       "-X", "fetch.message.max.bytes=4000000"]
            if start == "end":
                command[2:3] = ["-d", "fetch"]  # says when the fetcher has its offset
            kcat = subprocess.Popen(command, stdout=subprocess.PIPE,
                                    stderr=subprocess.PIPE if start == "end" else None)
            try:
                if start == "end":
                    for line in kcat.stderr:
                        if b"Fetch topic" in line and b"at offset" in line:
                            break
                    note("positioned")
                stdout, _ = kcat.communicate(timeout=request.get("timeout_ms", 20000) / 1000)
            finally:
                kcat.kill()
            for line in stdout.splitlines():
                r = json.loads(line)
                flat = r.get("headers", [])
                out.append({"p": r["partition"], "o": r["offset"], "t": r["ts"],
                            "k": None if r["key"] is None else b64(r["key"].encode()),
                            "v": None if r["payload"] is None else b64(r["payload"].encode()),
                            "h": [[n, None if v is None else b64(v.encode())] for n, v in zip(flat[::2], flat[1::2])]})
        return {"records": out}

    def member(self, request, stop, event):
        raise NotImplementedError

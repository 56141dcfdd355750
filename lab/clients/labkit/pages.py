"""The documentation as a reader would use it: its commands typed in order, and what comes out held
against what the page shows.

A block of `console` has commands after `$ `, and below each what it says; a line of `…` stands for
any lines, `…` in a line for anything. Where nothing is shown only the exit code counts. Comments tell
the test what a reader knows or does not have to see:

    <!-- test: fresh -->            all brokers are stopped, and an empty directory is gone to
    <!-- test: stop -->             all brokers are stopped (Ctrl-C)
    <!-- test: given
    COMMANDS -->                    were typed before
    <!-- test: file 1.yaml … -->    the next block is these files' text; a digit in the name is the node's number
    <!-- test: files of README -->  those of its "Several brokers"
    <!-- test: says -->             the next block is what the broker's terminal says
    <!-- test: numbers vary -->     of the next block's output, and who of them it is
"""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from .paths import LAB, REPO, TIDEMARK, Deadline, free_port, wait_until

PAGES = [REPO / "README.md", *sorted((REPO / "docs").glob("*.md")), *sorted((REPO / "docs" / "runbooks").glob("*.md"))]
# What a command line begins with, wherever it stands.
PROGRAMS = r"(tidemark|kubectl|helm|cargo|curl|kcat|openssl|lab/\S+|\./test)\b"
# Commands that change nothing: what they show may take a while to be so.
LOOKS = re.compile(r"^(tidemark( -b \S+)? (topic (describe|list)|cluster( describe| quorum describe)?( |$)|group (describe|list)|doctor"
                   r"|tier (ls|verify|restore)|config show)|ls |curl )")


@dataclass
class Block:
    kind: str
    line: int
    lines: list
    notes: list = field(default_factory=list)

    def steps(self):
        """Each command with what the page shows below it."""
        steps = []
        for text in self.lines:
            if steps and steps[-1][0].endswith("\\"):
                steps[-1][0] += "\n" + text
            elif text.startswith("$ "):
                steps.append([text[2:], []])
            else:
                assert steps, f"line {self.line}: a console begins with a command"
                steps[-1][1].append(text)
        return steps


def blocks(path):
    """The blocks of a page, each with the notes above it; a note without a block is a block of its own."""
    found, notes, block, note = [], [], None, None
    for number, text in enumerate(path.read_text().splitlines(), 1):
        if note is not None:
            note.append(text.removesuffix("-->").rstrip())
        elif text.startswith("<!-- test: "):
            note = [text.removeprefix("<!-- test: ").removesuffix("-->").rstrip()]
        elif text.startswith("```"):
            if block is None:
                block = Block(text[3:].strip(), number, [], notes)
                notes = []
            else:
                found.append(block)
                block = None
        elif block is not None:
            block.lines.append(text)
        if note is not None and text.endswith("-->"):
            notes.append(note)
            note = None
    assert block is None and not notes, f"{path.name}: a block or a note without its end"
    return found


def plain(text):
    """A line without what differs from run to run."""
    for pattern, word in ((r"\d{4}-\d\d-\d\dT[\d:.]+Z|\b\d\d:\d\d:\d\d\b", "<time>"), (r"\b1[5-9]\d{11}\b", "<ms>"),
                          (r"(?<![\w.-])[\w-]{22}(?![\w.-])", "<id>"), (r"[\d.]+ ([KMG]i)?B/s", "<rate>"),
                          (r"127\.0\.0\.1:\d{5}\b", "<address>"), (r"\b\d+(\.\d+)? ?(ms|s)\b", "<duration>")):
        text = re.sub(pattern, word, text)
    return " ".join(text.split())


def alike(shown, said):
    """Whether lines are what a page shows."""
    if not shown:
        return not said
    if shown[0] == "…":
        return any(alike(shown[1:], said[at:]) for at in range(len(said) + 1))
    pattern = ".*".join(map(re.escape, shown[0].split("…")))
    return bool(said) and re.fullmatch(pattern, said[0]) is not None and alike(shown[1:], said[1:])


class Reader:
    """Somebody who types what a page says, in an empty directory with the repository's files in it."""

    def __init__(self, work, words=None, patience=30):
        self.work, self.words, self.patience, self.number = work, words or {}, patience, 0
        self.ports, self.terminal, self.terminal_log, self.seen_of_terminal = {}, None, None, 0
        self.shell, self.directory = None, None
        self.typed, self.checked = 0, 0
        self.fresh()

    # What a page writes, and what it is here.

    def here(self, text):
        for path in ("/tmp/", "/var/lib/tidemark"):
            text = re.sub(rf"(?<![\w.]){path}", f"{self.directory}{path}", text)
        text = re.sub(r"(127\.0\.0\.1:)(\d{4})\b", lambda m: m[1] + str(self.port(int(m[2]))), text)
        for word, value in self.words.items():
            text = text.replace(word, value)
        return text

    def there(self, text):
        text = text.replace(str(self.directory / "tmp"), "/tmp").replace(f"{self.directory}/", "/")
        for port, own in self.ports.items():
            text = re.sub(rf"(?<=127\.0\.0\.1:){own}\b", str(port), text)
        for word, value in self.words.items():
            text = text.replace(value, word)
        # Nobody types the address that is the default.
        return re.sub(r"tidemark --bootstrap 127\.0\.0\.1:9092\S* ", "tidemark ", text)

    def port(self, port):
        if port not in self.ports:
            # A cluster of development takes the ports after the first one.
            of_cluster = (9092, 9093, 9094)
            together = of_cluster if port in of_cluster else (port,)
            first = free_port(len(together))
            self.ports.update((at, first + nth) for nth, at in enumerate(together))
        return self.ports[port]

    # Doing what it says.

    def read(self, block):
        """Does what a block asks for."""
        vary = False
        written = None
        for note in block.notes:
            word, *rest = note[0].split()
            match word:
                case "fresh": self.fresh()
                case "stop": self.stop()
                case "given": [self.type(line, []) for line in [" ".join(rest), *note[1:]] if line]
                case "file": written = rest
                case "files": self.write_those_of_readme()
                case "says": written = []
                case "numbers": vary = True
                case _: raise AssertionError(f"line {block.line}: there is no note {word}")
        if written:
            for name in written:
                self.write(name, block)
        elif written == []:
            self.hears(block.lines)
        if block.kind != "console":
            return
        for command, output in block.steps():
            try:
                if check(command):
                    self.checked += 1
                else:
                    self.type(command, output, vary)
                    self.typed += 1
            except AssertionError as error:
                raise AssertionError(f"line {block.line}: {error}") from None

    def write(self, name, block):
        text = "\n".join(block.lines) + "\n"
        number = re.search(r"\d", name)
        if number and number[0] != "1":
            # Its own number, directory and ports; whom it asks stays.
            own = lambda line: line if "bootstrap.servers" in line else re.sub(
                r"(?<=id: )1|(?<=data)1|:(9092|9192|8081)\b", lambda m: f":{int(m[1]) + int(number[0]) - 1}" if m[1] else number[0], line)
            text = "\n".join(map(own, text.splitlines())) + "\n"
        (self.directory / name).write_text(self.here(text))

    def write_those_of_readme(self):
        """The files that the README writes for several brokers."""
        for block in blocks(REPO / "README.md"):
            for names in (note[0].split()[1:] for note in block.notes if note[0].startswith("file 1.yaml")):
                for name in names:
                    self.write(name, block)

    def type(self, command, shown, vary=False):
        """Types a command and holds what comes against what is shown."""
        typed = self.here(command)
        if re.match(r"tidemark (dev|broker)\b", command) and "&" not in command:
            return self.begin(command, typed, shown)
        deadline = Deadline(self.patience)
        while True:
            code, said = self.run(typed)
            unlike = compare(command, shown, self.there(said), vary)
            # What is told is a refusal or a finding, or it went well.
            refused = any(re.match("tidemark: |error: |FIND  ", line) for line in shown)
            if refused != (code != 0):
                unlike = f"exit code {code}\n{said}"
            if not unlike:
                return None
            if deadline.passed() or not LOOKS.match(command):
                raise AssertionError(f"`{command}` {unlike}")
            time.sleep(0.2)

    def run(self, typed):
        self.number += 1
        out, code = (self.directory.parent / f"{self.number}.{end}" for end in ("out", "code"))
        self.shell.stdin.write(f"{{ {typed}\n}} > {out} 2>&1 < /dev/null; echo $? > {code}.new; mv {code}.new {code}\n")
        self.shell.stdin.flush()
        deadline = Deadline(120)
        while not code.exists():
            assert self.shell.poll() is None and not deadline.passed(), f"`{typed}` does not end:\n{out.read_text()}"
            time.sleep(0.02)
        if "& done" in typed:
            # What goes on is asked for what it does once it does it.
            wait_until(lambda: out.read_text().count("ready  ") == len(re.search(r"in (.*?);", typed)[1].split()), 60,
                       "brokers being ready")
        said = out.read_text(errors="replace")
        return int(code.read_text()), people(said) if "& done" in typed else said

    def begin(self, command, typed, shown):
        """A terminal of its own, where something goes on: the one before is done with."""
        self.interrupt()
        if command.startswith("tidemark dev"):
            if "--listen" not in command:
                typed += f" --listen 127.0.0.1:{self.port(9092)}"
        self.number += 1
        self.terminal_log = self.directory.parent / f"{self.number}.out"
        with open(self.terminal_log, "wb") as log:
            self.terminal = subprocess.Popen(["bash", "-c", f"exec {typed}"], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                             env=self.env(), cwd=self.directory, start_new_session=True)
        self.seen_of_terminal = 0
        self.hears(shown or ["ready  …", "…"])
        http = re.search(r"http://(127\.0\.0\.1:\d+)/", self.terminal_log.read_text())
        if http and "BROKER:8080" in self.words:
            self.words["BROKER:8080"] = http[1]

    def hears(self, shown):
        """Waits until the terminal has said what is shown."""
        deadline = Deadline(60)
        while True:
            ended = self.terminal.poll() is not None
            said = self.terminal_log.read_text(errors="replace")[self.seen_of_terminal:]
            unlike = compare("", shown, self.there(people(said)), False)
            if not unlike:
                self.seen_of_terminal += len(said)
                return
            assert not ended and not deadline.passed(), unlike
            time.sleep(0.1)

    # Terminals.

    def env(self):
        home = self.work / "bin"
        home.mkdir(exist_ok=True)
        for name in ("tidemark", "kubectl-tidemark"):
            if not (home / name).exists():
                (home / name).symlink_to(TIDEMARK)
        return {**os.environ, "PATH": f"{home}:{os.environ['PATH']}", "TIDEMARK_BOOTSTRAP": f"127.0.0.1:{self.port(9092)}",
                # What fills this machine's disk is not the page's.
                "TIDEMARK_LOW_DISK_PERCENT": "0"}

    def fresh(self):
        self.end()
        self.number += 1
        self.ports = {}
        self.directory = self.work / str(self.number) / "here"
        self.directory.mkdir(parents=True)
        (self.directory / "tmp").mkdir()
        (self.directory / "lab").symlink_to(LAB)
        for name in ("examples", "chart", "crds"):
            shutil.copytree(REPO / name, self.directory / name)
        self.shell = subprocess.Popen(["bash"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, env=self.env(),
                                      cwd=self.directory, start_new_session=True)

    def interrupt(self):
        """Ctrl-C in the terminal where something goes on."""
        if self.terminal and self.terminal.poll() is None:
            self.terminal.send_signal(signal.SIGINT)
            self.terminal.wait(30)
        self.terminal = None

    def stop(self):
        """Ctrl-C wherever something goes on."""
        self.interrupt()
        if self.shell and self.shell.poll() is None:
            self.run("kill $(jobs -p) 2>/dev/null; wait; true")

    def end(self):
        if self.terminal and self.terminal.poll() is None:
            self.terminal.kill()
            self.terminal.wait(30)
        if self.shell:
            # The shell, and what it left running.
            os.killpg(self.shell.pid, signal.SIGKILL)
            self.shell.wait(30)
        self.terminal = self.shell = None


def people(said):
    """What is said to people, without what is logged."""
    return "\n".join(line for line in said.splitlines() if not re.match(r"\{\"|\d{4}-\d\d-\d\dT\S+ ", line))


def compare(command, shown, said, vary):
    """How what was said differs from what is shown; nothing where it does not, or nothing is shown."""
    digits = (lambda line: re.sub(r"[\d,.]*\d", "#", line.removesuffix(" yes"))) if vary else (lambda line: line)
    lines = lambda texts: [digits(plain(line)) for line in texts if line.strip()]
    want, got = lines(shown), lines(said.splitlines())
    if re.search(r"consume|ConsoleConsumer|kcat.* -C", command):
        # Partitions come in any order.
        want, got = sorted(want), sorted(got)
    if not want or alike(want, got):
        return None
    return "shows\n  " + "\n  ".join(want) + "\nand there came\n  " + "\n  ".join(got)


# What cannot be run here is held against what it names.

def check(command):
    """Checks a command that takes a Kubernetes, a build or an hour; False for one that is to be typed."""
    if re.match(r"\w+=\S", command):
        return False  # The shell is to remember it.
    words = shlex.split(command, comments=True)
    program = words[0] if words else ""
    if program == "kubectl":
        kubectl(words[1:])
    elif program == "helm":
        helm(words[1:])
    elif program == "cargo":
        for package in (words[at + 1] for at, word in enumerate(words) if word == "-p"):
            assert f'name = "{package}"' in (REPO / "Cargo.lock").read_text(), f"there is no package {package}"
    elif program == "./test":
        steps = re.search(r"^all=\((.*)\)", (REPO / "test").read_text(), re.M)[1].split()
        assert all(word in (*steps, "quick", "STEP...") for word in words[1:]), command
    elif re.match(r"(lab|bench|fuzz|chart|broker)/", program) and not program.startswith("lab/bin/"):
        assert os.access(REPO / program, os.X_OK), f"{program} cannot be run"
    elif program == "export":
        assert words[1:] == ["PATH=$PWD/target/release:$PATH"], command
    elif program == "tidemark":
        # The command line's own tests hold every page against its parser; names in capitals are the reader's to fill in.
        return bool(re.search(r"(?<![\w$.-])[A-Z]{2,}\b(?!=)", command.split("#")[0])) or "--cluster orders" in command
    elif program in ("iostat", "dmesg", "df", "ln"):
        pass
    else:
        known = ("echo", "printf", "seq", "curl", "kcat", "ls", "openssl", "for", "kill", "lab/bin/kafka")
        assert program in known, f"nobody runs or checks `{command}`"
        return False
    return True


def crds():
    return [yaml.safe_load(path.read_text())["spec"] for path in sorted((REPO / "crds/yaml").glob("*.yaml"))]


def schema(kind):
    of_kind = next(spec for spec in crds() if kind in (spec["names"]["kind"].lower(), *spec["names"]["shortNames"], spec["names"]["plural"]))
    return of_kind["versions"][0]["schema"]["openAPIV3Schema"]


def in_schema(node, path):
    """Whether a field of this path is in a schema."""
    for name in path:
        if node.get("type") == "array":
            node = node["items"]
            if re.fullmatch(r"\d+|\*", name):
                continue
        properties = node.get("properties", {})
        assert name in properties, f"there is no field {'.'.join(path)}"
        node = properties[name]


def leaves(value, path=()):
    if isinstance(value, dict):
        return [leaf for name, inner in value.items() for leaf in leaves(inner, (*path, name))]
    return [path]


def kubectl(words):
    """Holds a command of kubectl against the definitions of resources, and what the operator knows."""
    assert "tidemark" != words[0] or len(words) > 1
    if words[0] == "tidemark":
        return  # As for the command line itself.
    names = set()
    for spec in crds():
        n = spec["names"]
        names |= {n["plural"], n["singular"], *n["shortNames"], *n["categories"], f"{n['plural']}.{spec['group']}", f"{n['singular']}.{spec['group']}"}
    names |= {"pods", "leases", "nodes", "events", "configmap", "secret", "crd", "certificate", "deploy"}
    options = ("-n", "--namespace", "-f", "-p", "-o", "--for", "--timeout", "--type", "--from-file", "-l")
    flags = {}
    rest = []
    at = 0
    while at < len(words):
        word = words[at]
        name, equals, value = word.partition("=")
        if word.startswith("-") and not equals and word in options:
            value, at = words[at + 1], at + 1
        if word.startswith("-"):
            flags.setdefault(name, []).append(value)
        else:
            rest.append(word)
        at += 1
    verb, *objects = rest
    for file in flags.get("-f", []) if verb in ("apply", "create", "delete") else []:
        assert (REPO / file).exists(), f"there is no {file}"
    if verb in ("get", "describe", "patch", "annotate", "wait", "delete"):
        for one in objects[0].split(","):
            resource = one.split("/")[0]
            assert resource in names, f"there is no resource {resource}"
    source = "\n".join(path.read_text() for room in ("operator/src", "crds/src") for path in (REPO / room).rglob("*.rs"))
    for condition in (value.removeprefix("condition=") for value in flags.get("--for", [])):
        assert re.search(rf"\b{condition.split('=')[0]}\b", source), f"there is no condition {condition}"
    for annotation in re.findall(r"\btidemark\.dev/[\w-]+(?==)", " ".join(objects)):
        assert f'"{annotation}"' in source or f'"{annotation.split("/")[1]}"' in source, f"nobody knows {annotation}"
    kind = objects[0].split("/")[0].split(".")[0] if objects else ""
    kind = "cluster" if kind == "tidemark" else kind
    for patch in flags.get("-p", []) if verb == "patch" else []:
        value = json.loads(patch)
        paths = [one["path"].strip("/").split("/") for one in value] if isinstance(value, list) else leaves(value)
        for path in paths:
            in_schema(schema(kind), path)
    for value in flags.get("-o", []):
        if value.startswith("jsonpath=") and kind in ("cluster", "topic", "consumergroup", "tmc", "tmt", "tmg"):
            for path in re.findall(r"\{\.(\w+(?:\.\w+)*)", value):
                in_schema(schema(kind), path.split("."))


def helm(words):
    """Holds a command of helm against the chart."""
    values = yaml.safe_load((REPO / "chart/values.yaml").read_text())
    for at, word in enumerate(words):
        if word == "--set":
            node = values
            for name in words[at + 1].split("=")[0].split("."):
                assert name in node, f"the chart has no value {words[at + 1]}"
                node = node[name]
        if word.startswith("chart"):
            assert (REPO / word / "Chart.yaml").exists(), f"there is no {word}"

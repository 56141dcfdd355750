"""A clock that is off, for one process."""

import os
import subprocess
from pathlib import Path

SOURCE = Path(__file__).with_name("clock.c")


def off(seconds, folder):
    """The environment of a process whose time of day is off by so many seconds."""
    library = Path(folder) / "clock.so"
    if not library.exists():
        subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", library, SOURCE, "-ldl"], check=True)
    return {**os.environ, "LD_PRELOAD": str(library), "CLOCK_OFF_S": str(seconds)}

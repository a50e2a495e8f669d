"""Stands in for KCL's daemon: does what its plan says of this start, then waits for SIGTERM as the real one does.

``FAKE_DAEMON`` names a folder with ``plan.json``, a list with one entry for each start (the last one goes on), and
takes a note of each start. An entry has ``lines`` (standard error), ``pulse`` (a child that served this shard and is
not drained), ``orphan`` (a child that outlives the daemon; ``serves``: with a shard), ``exit`` (its code, at once),
``term`` (``ignore`` or ``exit``).
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

from streamproc.runners.kcl.pulse import Pulse

folder = Path(os.environ["FAKE_DAEMON"])
plan = json.loads((folder / "plan.json").read_text())
starts = sorted(folder.glob("start-*"))
entry = plan[min(len(starts), len(plan) - 1)]
properties = sys.argv[2]
settings = json.loads(os.environ["STREAMPROC_KCL_CHILD"])
note = {"pid": os.getpid(), "argv": sys.argv, "properties": Path(properties).read_text(), "settings": settings}
real_getpid = os.getpid
null = subprocess.DEVNULL
if entry.get("orphan"):
    orphan = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], stdout=null, stderr=null)
    note["orphan"] = orphan.pid
    if entry["orphan"] == "serves":
        os.getpid = lambda: orphan.pid
        Pulse(Path(settings["pulse_folder"]), "shardId-000000000000")
        os.getpid = real_getpid
if shard_id := entry.get("pulse"):
    pulse = Pulse(Path(settings["pulse_folder"]), shard_id)
    with pulse.action():
        pass
signal.signal(signal.SIGTERM, signal.SIG_IGN if entry.get("term") == "ignore" else signal.SIG_DFL)
for line in entry.get("lines", []):
    sys.stderr.write(line + "\n")
sys.stderr.flush()
(folder / "new").write_text(json.dumps(note))
(folder / "new").rename(folder / f"start-{len(starts)}")
if "exit" in entry:
    os._exit(entry["exit"])
while True:
    signal.pause()

"""Two workers at once, each on a core of its own, beside one alone: the same log for each, fed from memory."""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.throughput.environments import ROOT
from benchmarks.throughput.runner import Services, WayFailed, command_of, task_of
from benchmarks.throughput.ways import ALL

_WAY = next(way for way in ALL if way.name == "ours_1000")


def measure(folder: Path, events: int, rounds: int, beside: Services) -> dict[str, Any]:
    """Of twice one worker alone, what two do together: a CPU second of the workers, and by the clock.

    None where the machine has one core or cannot pin processes, or a worker failed, which is told.
    """
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    if len(cores) < 2:
        print("scaling is not measured: two cores to pin workers to are needed", file=sys.stderr)
        return {"scaling_cpu_ratio_2": None, "scaling_wall_ratio_2": None}
    cpu, wall = [], []
    try:
        for _ in range(rounds):
            [(cpu_alone, wall_alone)] = _at_once(cores[:1], folder, events, beside)
            both = _at_once(cores[:2], folder, events, beside)
            cpu.append(2 * cpu_alone / sum(took for took, _ in both))
            wall.append(wall_alone / max(took for _, took in both))
            print(f"scaling  {cpu[-1]:.2f} a CPU second, {wall[-1]:.2f} by the clock", file=sys.stderr, flush=True)
    except WayFailed as error:
        print(f"scaling is not measured: {error}", file=sys.stderr)
        return {"scaling_cpu_ratio_2": None, "scaling_wall_ratio_2": None}
    return {
        "scaling_cpu_ratio_2": round(statistics.median(cpu), 3),
        "scaling_wall_ratio_2": round(statistics.median(wall), 3),
    }


def _at_once(cores: list[int], folder: Path, events: int, beside: Services) -> list[tuple[float, float]]:
    """CPU seconds and seconds of a worker on each of these cores, all started when the last one is ready."""
    beside.flush()
    outs = [Path(tempfile.mkdtemp(prefix="worker-", dir=folder)) for _ in cores]
    workers: list[subprocess.Popen[bytes]] = []
    try:
        for core, out in zip(cores, outs, strict=True):
            # Databases of their own: they read the same log, and the projection of one would refuse the other's.
            url = beside.redis_url.removesuffix("/0") + f"/{len(workers)}"
            task = msgspec.structs.replace(task_of(_WAY, folder, out, events, url), waits=True)
            with (out / "log").open("wb") as log:
                workers.append(
                    subprocess.Popen(
                        ["taskset", "-c", str(core), *command_of(_WAY, task)],
                        cwd=ROOT,
                        env=beside.environment(),
                        stdin=subprocess.PIPE,
                        stdout=subprocess.PIPE,
                        stderr=log,
                    )
                )
        for worker in workers:
            if worker.stdout is None or worker.stdout.readline() != b"ready\n":
                raise WayFailed(f"a worker did not come up: {(outs[0] / 'log').read_text()[-500:]}")
        for worker in workers:
            if worker.stdin is not None:
                worker.stdin.write(b"\n")
                worker.stdin.flush()
        for worker in workers:
            if worker.wait():
                raise WayFailed(f"a worker ended with code {worker.returncode}: {(outs[0] / 'log').read_text()[-500:]}")
        return [_took(out) for out in outs]
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()
            for pipe in (worker.stdin, worker.stdout):
                if pipe is not None:
                    pipe.close()
        for out in outs:
            shutil.rmtree(out, ignore_errors=True)


def _took(out: Path) -> tuple[float, float]:
    ready, done = (json.loads((out / f"{name}.json").read_text()) for name in ("ready", "done"))
    return done["cpu_s"] - ready["cpu_s"], done["wall_s"] - ready["wall_s"]

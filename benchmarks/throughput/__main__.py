"""``make bench``: the recommender's job done by us, by the booster alone and by other frameworks, side by side."""

from __future__ import annotations

import argparse
import json
import signal
import sys
import tempfile
import time
from pathlib import Path
from uuid import UUID

from benchmarks.throughput import expected, inputs, report, scaling
from benchmarks.throughput.environments import ROOT, PeerMissing, python_of
from benchmarks.throughput.expected import Lists, Unequal
from benchmarks.throughput.job import Task
from benchmarks.throughput.report import Result
from benchmarks.throughput.runner import Services, WayFailed, ran, services
from benchmarks.throughput.ways import DEFAULT_PEERS, PEERS, Way, of_peers
from streamproc_producers.events import CartEvent

#: The lists of all ways are compared where batches of so many events end.
COMPARED_BATCH = 1_000
#: Fewer train no model.
TRAINING_EVENTS_MIN = 2_000


class Checks:
    """What the ways must have written."""

    def __init__(self, folder: Path, logs: inputs.Logs) -> None:
        self._folder = folder
        self._logs = logs
        self._lists: dict[tuple[str, int], Lists] = {}
        self._numbers: dict[UUID, int] = {event.event_id: number for number, event in enumerate(logs["zipf"])}

    def check(self, way: Way, out: Path, events: int) -> tuple[int, float]:
        """How many lists there are, and what share of the wanted ones users see. Raises Unequal."""
        if way.is_floor:
            return 0, 1.0
        lists = self._of(way.log, way.candidates)
        ends = _ends(self._logs[way.log][:events], max(way.batch, COMPARED_BATCH))
        wanted = {number: lists[number] for number in ends}
        if way.at_most_every_seconds:
            return expected.overlap(out, wanted, self._logs[way.log][:events], way.batch)
        return expected.compare(out, wanted, self._numbers, events), 1.0

    def _of(self, log: str, candidates: int) -> Lists:
        if (log, candidates) not in self._lists:
            task = Task(
                folder=str(self._folder),
                log=log,
                events=len(self._logs[log]),
                batch=COMPARED_BATCH,
                candidates=candidates,
                out="",
                redis_url="",
            )
            self._lists[log, candidates] = expected.expected(task, self._logs[log])
        return self._lists[log, candidates]


def _ends(events: list[CartEvent], batch: int) -> list[int]:
    """The last event of each user in each batch."""
    ends: list[int] = []
    for start in range(0, len(events), batch):
        last = {event.user_id: number for number, event in enumerate(events[start : start + batch], start)}
        ends += last.values()
    return ends


def environments(peers: list[str]) -> dict[str, str]:
    """Make the peers' environments; peer -> why there is none."""
    missing = {}
    for peer in peers:
        try:
            python_of(peer)
        except PeerMissing as error:
            missing[peer] = str(error)
    return missing


def measure(
    results: dict[str, Result], folder: Path, checks: Checks, beside: Services, options: argparse.Namespace
) -> None:
    """All ways in turn, so often."""
    for round_number in range(1, options.rounds + 1):
        for result in results.values():
            if result.reason:
                continue
            way = result.way
            events = options.single if way.one_at_a_time else options.events
            started = time.monotonic()
            try:
                with ran(way, folder, events, beside) as (run, out):
                    if round_number == 1:
                        result.lists, result.overlap = checks.check(way, out, events)
                    result.runs.append(run)
                said = f"{report.rate(run):,.0f} events a CPU second"
            except (WayFailed, PeerMissing, Unequal) as error:
                said = result.reason = str(error)
            took = time.monotonic() - started
            print(f"round {round_number}  {way.name:<24} {said}  ({took:.0f} s)", file=sys.stderr, flush=True)


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--peers", default=",".join(DEFAULT_PEERS), help=f"of {','.join(PEERS)}, or none")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--events", type=int, default=200_000, help="in the log")
    parser.add_argument("--single", type=int, default=20_000, help="for those who take an event or user at a time")
    parser.add_argument("--only", help="the names of ways, apart by commas: for a look at a few of them")
    parser.add_argument("--no-scaling", action="store_true", help="leave out the two workers at once")
    parser.add_argument("--json", type=Path, default=ROOT / "build" / "bench.json")
    options = parser.parse_args()
    options.peers = [peer for peer in options.peers.split(",") if peer and peer != "none"]
    if unknown := {*options.peers} - {*PEERS}:
        parser.error(f"PEERS has {', '.join(sorted(unknown))}: choose from {', '.join(PEERS)}, or none")
    options.single = min(options.single, options.events)
    for name in ("events", "single"):
        if getattr(options, name) < 1 or getattr(options, name) % COMPARED_BATCH:
            parser.error(f"{name} must be a multiple of {COMPARED_BATCH:,}: lists are compared where batches end")
    if options.rounds < 1:
        parser.error("ROUNDS must be 1 or more")
    options.ways = of_peers(options.peers)
    if options.only:
        names = options.only.split(",")
        if unknown := {*names} - {way.name for way in options.ways}:
            parser.error(f"--only has {', '.join(sorted(unknown))}: no way of these peers")
    return options


def main() -> None:
    options = parsed()
    # As Ctrl-C does: what was started is ended and what was written is removed.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    machine = report.machine()
    missing = environments(options.peers)
    build = options.json.parent
    build.mkdir(parents=True, exist_ok=True)
    wanted = options.only.split(",") if options.only else [way.name for way in options.ways]
    results = {way.name: Result(way, [], reason=missing.get(way.peer or "", "")) for way in options.ways}
    for unwanted in {*results} - {*wanted}:
        results[unwanted].reason = "not asked for"
    with tempfile.TemporaryDirectory(prefix="streamproc-bench-", dir=build) as name, services(Path(name)) as beside:
        folder = Path(name)
        print("making the log and the model ...", file=sys.stderr, flush=True)
        logs = inputs.logs(options.events)
        trees = inputs.model(folder / "bundle", max(TRAINING_EVENTS_MIN, options.events // 10))
        if trees != inputs.MODEL.trees_max:
            sys.exit(f"training stopped at {trees} of {inputs.MODEL.trees_max} trees: lower its learning rate")
        event_bytes = inputs.write(folder, logs, options.peers)
        measure(results, folder, Checks(folder, logs), beside, options)
        scaled = {} if options.no_scaling else scaling.measure(folder, options.events, options.rounds, beside)
    about = {"events": options.events, "event_bytes": round(event_bytes, 1), "rounds": options.rounds, "trees": trees}
    figures = report.figures_of(results) | scaled | machine | about
    options.json.write_text(json.dumps(figures, indent=2) + "\n")
    ways = [way for way in options.ways if way.name in wanted]
    text = report.table(figures, ways)
    options.json.with_suffix(".md").write_text(text + "\n")
    options.json.with_suffix(".svg").write_text(report.plot(figures, ways))
    print(text)
    if failed := [name for name in wanted if results[name].reason]:
        sys.exit(f"{len(failed)} of {len(wanted)} ways failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()

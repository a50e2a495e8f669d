"""Writes ``benchmarks/capacity.md``: what 1,000 to 1,000,000 events a second take and cost, and what breaks first.

    make capacity                      # from constants.json and the figures in build/, in a second
    make capacity ARGS=--measure       # measures the sizes first, and writes constants.json; half a minute

Every figure is arithmetic (``streamproc_consumers/load/cost.py``) over measured constants and a price table with its
date; the latencies come from a simulation (``capacity_model.py``), which is shown beside a measured run.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.capacity_limits import limits
from benchmarks.capacity_measure import constants_here, measure
from benchmarks.capacity_model import Surroundings, cpu_us_per_event, saturation, simulate
from streamproc_consumers.load import cost
from streamproc_consumers.load.cost import Constants, Demand, bill, endpoint_design, needs, per_million
from streamproc_consumers.load.prices import Prices, read_prices

ROOT = Path(__file__).parents[1]
CONSTANTS = ROOT / "consumers" / "streamproc_consumers" / "load" / "constants.json"
RATES = (1_000, 10_000, 100_000, 1_000_000)
#: Users whose states are kept, for each event a second: half an hour's events of them all, were each to make one.
USERS_PER_RATE, USERS_MAX = 2_000, 500_000_000
CHECKPOINTS = (5.0, 60.0, 300.0)


def demand_of(rate: float, constants: Constants, checkpoint_seconds: float = 60.0) -> Demand:
    return Demand(
        rate=rate,
        users=int(min(rate * USERS_PER_RATE, USERS_MAX)),
        shards=cost.shards_for(rate, constants),
        checkpoint_seconds=checkpoint_seconds,
    )


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown, all columns but the first to the right."""
    lines = [head, ["---", *["--:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def resources(constants: Constants) -> str:
    """What each rate takes."""
    every = [(rate, demand_of(rate, constants)) for rate in RATES]
    needed = {rate: needs(demand, constants) for rate, demand in every}

    def row(name: str, text: Any) -> list[str]:
        return [name, *(text(demand, needed[rate]) for rate, demand in every)]

    rows = [
        row("users whose states are kept", lambda demand, _: f"{demand.users:,}"),
        row("MB/s into Kinesis", lambda _, need: f"{need.stream_bytes / 1e6:,.1f}"),
        row("shards, filled to 60 %", lambda demand, _: f"{demand.shards:,}"),
        row("events in a batch", lambda _, need: f"{need.batch_events:,.0f}"),
        row("CPU us an event", lambda demand, need: f"{need.cpus * cost.CPU_FILL / demand.rate * 1e6:,.0f}"),
        row("CPUs, busy for 60 %", lambda _, need: f"{need.cpus:,.1f}"),
        row("memory of the processes, GB", lambda _, need: f"{need.memory_bytes / 1e9:,.1f}"),
        row("hosts (c7i.large), at least two", lambda _, need: f"{need.hosts:,}"),
        row("recommendations a second", lambda _, need: f"{need.users_scored:,.0f}"),
        row("Redis: GB", lambda _, need: f"{need.redis_bytes / 1e9:,.1f}"),
        row("Redis: users written a second", lambda _, need: f"{need.users_scored:,.0f}"),
        row("Redis: calls a second", lambda _, need: f"{need.redis_calls:,.0f}"),
        row("Redis: nodes (cache.r7g.large), replicas included", lambda _, need: f"{need.redis_nodes:,}"),
        row("DynamoDB: states a second, checkpoints of 60 s", lambda _, need: f"{need.states_written:,.0f}"),
        row("DynamoDB: write units a second", lambda _, need: f"{need.write_units:,.0f}"),
        row("lease table: writes a second", lambda _, need: f"{need.lease_writes:,.1f}"),
        row("Firehose: MB/s", lambda _, need: f"{need.firehose_bytes / 1e6:,.2f}"),
        row("Firehose: MB/s as billed, in steps of 5 KB", lambda _, need: f"{need.firehose_billed_bytes / 1e6:,.2f}"),
        row("Firehose: records a second", lambda _, need: f"{need.firehose_records:,.0f}"),
    ]
    return table(["events a second", *(f"{rate:,}" for rate in RATES)], rows)


def dollars(constants: Constants, prices: Prices) -> str:
    """What each rate costs a month, by service."""
    demands = [demand_of(rate, constants) for rate in RATES]
    needed = [needs(demand, constants) for demand in demands]
    bills = [bill(demand, need, constants, prices) for demand, need in zip(demands, needed, strict=True)]
    names = ["Kinesis, the cheaper mode", *(line.what for line in bills[0][1:])]
    rows = [
        [name, *(f"{lines[number].dollars_per_hour * cost.HOURS_A_MONTH:,.0f}" for lines in bills)]
        for number, name in enumerate(names)
    ]
    totals = [sum(line.dollars_per_hour for line in lines) for lines in bills]
    rows.append(["**all, $ a month**", *(f"**{total * cost.HOURS_A_MONTH:,.0f}**" for total in totals)])
    rows.append(
        [
            "**$ per million events**",
            *(f"**{per_million(total, rate):,.2f}**" for total, rate in zip(totals, RATES, strict=True)),
        ]
    )
    rows.append(["Kinesis' mode", *(lines[0].what.removeprefix("Kinesis, ") for lines in bills)])
    modes = [cost.kinesis_lines(demand, need, prices) for demand, need in zip(demands, needed, strict=True)]
    rows.append(
        [
            "the other mode",
            *(f"{max(line.dollars_per_hour for line in both) * cost.HOURS_A_MONTH:,.0f}" for both in modes),
        ]
    )
    fargate = [cost.fargate_dollars_per_hour(need, prices) * cost.HOURS_A_MONTH for need in needed]
    rows.append(["Fargate in the place of EC2", *(f"{value:,.0f}" for value in fargate)])
    return table(["$ a month", *(f"{rate:,}/s" for rate in RATES)], rows)


def checkpoints(constants: Constants, prices: Prices) -> str:
    """What the interval of the checkpoints decides: DynamoDB's part, and what a take-over replays."""
    rows = []
    for seconds in CHECKPOINTS:
        cells = [f"{seconds:.0f} s"]
        for rate in RATES:
            demand = demand_of(rate, constants, seconds)
            need = needs(demand, constants)
            line = next(line for line in bill(demand, need, constants, prices) if line.what.startswith("DynamoDB"))
            cells.append(f"{per_million(line.dollars_per_hour, rate):,.2f}")
        rows.append(cells)
    return table(["checkpoint every", *(f"{rate:,}/s" for rate in RATES)], rows)


def breaks(constants: Constants) -> str:
    """Every limit at every rate, and which is broken first."""
    found = []
    for rate in RATES:
        demand = demand_of(rate, constants)
        found.append(limits(demand, needs(demand, constants), constants))
    rows = []
    for same in zip(*found, strict=True):
        cells = [f"**{limit.used:,.0%}**" if limit.used > 1 else _share(limit.used) for limit in same]
        rows.append([same[0].name, *cells, same[0].then])
    head = ["limit, and how much of it is used", *(f"{rate:,}/s" for rate in RATES), "what to do then"]
    sentences = []
    for rate, each in zip(RATES, found, strict=True):
        first = max(each, key=lambda limit: limit.used)
        what = f"{first.name} ({first.figure})"
        broken = sum(limit.used > 1 for limit in each)
        begins = f"- At {rate:,} events a second"
        others = "" if broken == 1 else f"; {broken} limits in all"
        sentences.append(f"{begins} {'first ' + what + others if broken else 'nothing breaks; the next is ' + what}.")
    return table(head, rows) + "\n\n" + "\n".join(sentences)


def _share(used: float) -> str:
    return "<1%" if used < 0.005 else f"{used:.0%}"


def comparison(constants: Constants, prices: Prices) -> str:
    """Beside the design that asks an endpoint for each event."""
    rows, names = [], []
    for rate in RATES:
        theirs = endpoint_design(rate, constants, prices)
        demand = demand_of(rate, constants)
        ours = bill(demand, needs(demand, constants), constants, prices)
        names = [line.what for line in theirs]
        total, mine = (sum(line.dollars_per_hour for line in lines) for lines in (theirs, ours))
        computes = [
            sum(line.dollars_per_hour for line in lines if line.what in ("Lambda", "SageMaker endpoint", "EC2"))
            for lines in (theirs, ours)
        ]
        rows.append(
            [
                f"{rate:,}",
                *(f"{per_million(line.dollars_per_hour, rate):,.3f}" for line in theirs),
                f"{per_million(total, rate):,.2f}",
                f"**{per_million(mine, rate):,.2f}**",
                f"{total / mine:.1f}",
                f"{computes[0] / computes[1]:.0f}",
            ]
        )
    return table(["events a second", *names, "all", "this design", "times", "compute alone, times"], rows)


def validation(constants: Constants, latency: dict[str, Any]) -> str:
    """The model beside the measured run, rate by rate, up to the highest that was measured."""
    rows = []
    shards = int(latency.get("shards", 4))
    for rate in latency.get("rates", []):
        if latency.get(f"p50_ms_{rate}") is None:
            continue
        around = surroundings(latency, rate)
        predicted = simulate(rate, shards, constants, around)
        p50, p99 = latency[f"p50_ms_{rate}"], latency[f"p99_ms_{rate}"]
        rows.append(
            [
                f"{rate:,}",
                f"{predicted.p50_ms:,.0f}",
                f"{p50:,.0f}",
                f"{predicted.p99_ms:,.0f}",
                f"{p99:,.0f}",
                f"{predicted.busy:.0%}",
                f"{latency[f'recommender_cpu_share_{rate}']:.0%}",
                f"{predicted.batch_events:,.0f}",
                f"{latency[f'batch_events_{rate}']:,.0f}",
                f"{latency[f'kinesis_cpu_share_{rate}']:.0%}",
            ]
        )
    if not rows:
        return "No run of `make bench-latency` was found in `build/`, so there is nothing to compare with."
    head = [
        "events/s",
        "p50 model",
        "p50 run",
        "p99 model",
        "p99 run",
        "CPU model",
        "CPU run",
        "batch model",
        "batch run",
    ]
    return table([*head, "emulator CPU"], rows)


def surroundings(latency: dict[str, Any], rate: int) -> Surroundings:
    """What the services took in the run, so that the model is asked about the queue alone."""
    values = {name: latency[f"{name}_mean_ms_{rate}"] / 1000 for name in ("put", "read", "publish")}
    return Surroundings(
        put_seconds=values["put"],
        read_seconds=values["read"],
        publish_seconds=values["publish"],
        checkpoint_seconds=latency[f"checkpoint_ms_{rate}"] / 1000,
        checkpoint_every_seconds=float(latency.get("checkpoint_seconds", 5.0)),
        users=int(latency.get("users", 5_000)),
    )


def saturations(constants: Constants) -> str:
    """Latency by the model as one process comes near its limit."""
    shards = 4
    limit = saturation(shards, constants, users=10_000_000)
    rows = []
    for share in (0.1, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 1.1):
        rate = limit * share
        around = Surroundings(users=10_000_000, checkpoint_seconds=0.1)
        predicted = simulate(rate, shards, constants, around, seconds=120.0)
        rows.append(
            [
                f"{rate:,.0f}",
                f"{share:.0%}",
                f"{predicted.p50_ms:,.0f}",
                f"{predicted.p99_ms:,.0f}",
                f"{predicted.busy:.0%}",
                f"{predicted.batch_events:,.0f}",
            ]
        )
    return table(["events/s", "of saturation", "p50 ms", "p99 ms", "CPU busy", "events in a batch"], rows)


def price_table(prices: Prices) -> str:
    rows = [
        [price.unit, f"{price.dollars:g}", "yes" if price.confirmed else "**no**"] for price in prices.price.values()
    ]
    return table(["for", "$", "confirmed"], rows)


def constants_table(constants: Constants) -> str:
    rows = [
        [name.replace("_", " "), f"{value:,.1f}"]
        for name, value in msgspec.structs.asdict(constants).items()
        if isinstance(value, float)
    ]
    return table(["constant", "value"], rows)


def render(constants: Constants, prices: Prices, latency: dict[str, Any]) -> str:
    """The page."""
    alone = cpu_us_per_event(1, 1.0, constants)
    thousand = cpu_us_per_event(1_000, 0.99, constants)
    made_at = str(latency.get("made_at", ""))[:10]
    run = f" (run of {made_at}, {latency.get('machine', '')})" if made_at else ""
    text = (ROOT / "benchmarks" / "capacity.md.in").read_text("utf-8")
    values = {
        "made_by": constants.made_by,
        "date": constants.date,
        "machine": constants.machine,
        "users_per_rate": f"{USERS_PER_RATE:,}",
        "users_max": f"{USERS_MAX / 1e6:,.0f} million",
        "resources": resources(constants),
        "dollars": dollars(constants, prices),
        "checkpoints": checkpoints(constants, prices),
        "breaks": breaks(constants),
        "comparison": comparison(constants, prices),
        "run": run,
        "validation": validation(constants, latency),
        "saturations": saturations(constants),
        "alone_us": f"{alone:,.0f}",
        "thousand_us": f"{thousand:,.0f}",
        "prices_date": prices.date,
        "region": prices.region,
        "prices": price_table(prices),
        "constants": constants_table(constants),
        "small_rounding": small_rounding(constants),
        "lambda_rate": f"{1_000 / cost.endpoint_seconds(constants):,.0f}",
    }
    for name, value in values.items():
        text = text.replace("{{" + name + "}}", value)
    return text


def small_rounding(constants: Constants) -> str:
    """Where Firehose's steps of 5 KB matter: few events on many shards."""
    rows = []
    for rate in (1, 10, 100, 1_000):
        cells = [f"{rate:,}"]
        for shards in (1, 4, 16):
            need = needs(Demand(rate=rate, users=10_000, shards=shards, archive=False), constants)
            cells.append(f"{need.firehose_billed_bytes / need.firehose_bytes:,.2f}")
        rows.append(cells)
    return table(["events/s", "1 shard", "4 shards", "16 shards"], rows)


def read_latency(path: Path) -> dict[str, Any]:
    """The latency bench's figures, or none."""
    return dict(json.loads(path.read_text())) if path.exists() else {}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measure", action="store_true", help="measure the sizes anew, and write constants.json")
    parser.add_argument("--build", type=Path, default=ROOT / "build", help="where the benchmarks' figures are")
    parser.add_argument("--prices", type=Path, help="a price table of your own")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "capacity.md")
    options = parser.parse_args()
    known = msgspec.json.decode(CONSTANTS.read_bytes(), type=Constants)
    constants = measure(known, options.build) if options.measure else constants_here(known, options.build)
    if options.measure:
        CONSTANTS.write_text(json.dumps(msgspec.to_builtins(constants), indent=2) + "\n")
        print(f"wrote {CONSTANTS}", file=sys.stderr)
    if not math.isfinite(constants.cpu_us_per_event):
        sys.exit("the constants are no numbers: measure again")
    page = render(constants, read_prices(options.prices), read_latency(options.build / "bench-latency.json"))
    options.out.write_text(page, "utf-8")
    print(f"wrote {options.out}", file=sys.stderr)


if __name__ == "__main__":
    main()

"""``python -m streamproc.testing.simulation --runs 2000 --seed 0 --json build/chaos.json``."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from streamproc.testing.simulation.mutations import MUTATIONS
from streamproc.testing.simulation.report import play, survivors


def main(arguments: list[str] | None = None) -> int:
    """Play schedules and mutations; 1 where something does not hold or a mutation survived."""
    parser = argparse.ArgumentParser(prog="python -m streamproc.testing.simulation", description=__doc__)
    parser.add_argument("--runs", type=int, default=2_000, help="how many schedules (default: 2000)")
    parser.add_argument("--seed", type=int, default=0, help="the first one's seed; the others follow (default: 0)")
    parser.add_argument("--json", type=Path, help="write the figures here, instead of printing them")
    options = parser.parse_args(arguments)
    tally = play(range(options.seed, options.seed + options.runs))
    survived = survivors(options.seed)
    figures = {
        "schedules": tally.schedules,
        "faults_injected": sum(tally.faults.values()),
        "faults_by_kind": tally.faults,
        "violations": len(tally.violations),
        "dead_letters_unexpected": tally.dead_letters_unexpected,
        "mutations": len(MUTATIONS),
        "mutations_survived": len(survived),
    }
    text = json.dumps(figures, indent=2) + "\n"
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(text)
    else:
        sys.stdout.write(text)
    for violation in tally.violations:
        sys.stderr.write(f"{violation}\n")
    for mutation in survived:
        sys.stderr.write(f"no schedule shows it: {mutation}\n")
    return 1 if tally.violations or survived else 0


if __name__ == "__main__":
    sys.exit(main())

"""`make bench-peers`: Spillway beside other gateways, in one run, which writes docs/peers.md and docs/peers.png."""

from __future__ import annotations

import argparse
import json
import subprocess
from pathlib import Path

from bench.peers.environment import FOLDER, Missing, python_package
from bench.peers.figures import Report
from bench.peers.page import page, tables
from bench.peers.run import FULL, QUICK, run
from bench.peers.system import SYSTEMS

RESULTS = FOLDER / "results.json"
PAGE, CHART = Path("docs/peers.md"), Path("docs/peers.png")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.peers", description=__doc__)
    names = [system.name for system in SYSTEMS if not system.direct]
    parser.add_argument("--quick", action="store_true", help="a round of fewer and shorter loads, in some minutes")
    parser.add_argument("--only", action="append", choices=names, metavar="NAME", help=f"one of {', '.join(names)}")
    parser.add_argument("--redraw", action="store_true", help="write page and chart from the last run's results")
    told = parser.parse_args()
    FOLDER.mkdir(exist_ok=True)
    if told.redraw:
        write(Report.read(json.loads(RESULTS.read_text())))
        return
    chosen = [system for system in SYSTEMS if told.only is None or system.direct or system.name in told.only]
    report = run(chosen, QUICK if told.quick else FULL)
    print("\n".join(["", *report.surroundings, "", *tables(report)]), flush=True)
    if told.only is None:
        RESULTS.write_text(json.dumps(report.told(), indent=1))
        write(report)


def write(report: Report) -> None:
    """Write the page, and the chart where matplotlib can be had."""
    PAGE.write_text(page(report))
    try:
        program = python_package("matplotlib").program("python")
    except Missing as why:
        print(f"without a chart: {why}", flush=True)
        return
    subprocess.run([program, str(Path(__file__).with_name("chart.py")), str(RESULTS), str(CHART)], check=True)
    print(f"{PAGE} and {CHART} are written", flush=True)


if __name__ == "__main__":
    main()

"""`python -m bench`: what Spillway costs, measured here and now, everything in one run."""

from __future__ import annotations

import argparse

from bench import engine_rate, mesh


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--only", choices=["router", "engine"], help="half of it")
    only = parser.parse_args().only
    if only != "engine":
        for row in mesh.run():
            print(row, flush=True)
    if only != "router":
        for rate in engine_rate.run():
            print(rate, flush=True)


if __name__ == "__main__":
    main()

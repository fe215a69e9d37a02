"""`python -m bench`: what Spillway costs, measured here and now, everything in one run."""

from __future__ import annotations

import argparse

from bench import (
    cancelling,
    collisions,
    confidence,
    decision,
    early,
    engine_rate,
    first_token,
    judgement,
    limits,
    memory,
    mesh,
    priorities,
    providers,
    session,
    stalls,
    validator,
    workers,
)

PARTS = {
    "decision": decision.run,
    "early": early.run,
    "limits": limits.run,
    "router": mesh.run,
    "session": session.run,
    "first": first_token.run,
    "stalls": stalls.run,
    "memory": memory.run,
    "engine": engine_rate.run,
    "cancel": cancelling.run,
    "priority": priorities.run,
    "collisions": collisions.run,
    "confidence": confidence.run,
    "providers": providers.run,
    "validator": validator.run,
    "judgement": judgement.run,
    "workers": workers.run,
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--only", choices=PARTS, help="one part of it")
    only = parser.parse_args().only
    for name, run in PARTS.items():
        if only in (None, name):
            for row in run():
                print(row, flush=True)


if __name__ == "__main__":
    main()

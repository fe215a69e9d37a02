"""`python -m bench`: what Spillway costs, measured here and now, everything in one run."""

from __future__ import annotations

from bench import mesh


def main() -> None:
    for row in mesh.run():
        print(f"{row.load:42} {row.through:16} {row.cpu_us:8.1f} us per {row.unit:6} {row.note}", flush=True)


if __name__ == "__main__":
    main()

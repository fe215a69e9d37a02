"""The chart of a run, by matplotlib: `python chart.py RESULTS.json OUT.png`.

It runs in an environment of its own, with matplotlib and without this project: Spillway needs none of it.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt  # after its backend is chosen: there may be no display

CALLERS = 64
OURS, PEERS = "#1f6f8b", "#b9a58f"
Panel = tuple[str, dict[str, float]]


def panels(report: dict[str, Any]) -> list[Panel]:
    """Title and value by system of each panel; a system without a value has none."""
    there = [each for each in report["outcomes"] if each["figures"] and each["version"]]

    def values(load: str, figure: str) -> dict[str, float]:
        found = {each["name"]: each["figures"][f"{load}, {CALLERS} callers"][figure] for each in there}
        return {name: value for name, value in found.items() if value}

    return [
        (f"CPU us per whole answer\n{CALLERS} callers", values("calls", "cpu_us_call")),
        (f"CPU us per token\n{CALLERS} streams, 100 tokens/s each", values("paced", "cpu_us_token")),
        (f"CPU us per token\n{CALLERS} streams, flat out", values("flat", "cpu_us_token")),
        ("Streams of 50 tokens/s\nwithout a stall over 250 ms", {each["name"]: each["streams"] for each in there}),
    ]


def draw(report: dict[str, Any], out: Path) -> None:
    """Write the chart."""
    names = [each["name"] for each in report["outcomes"] if each["figures"] and each["version"]][::-1]
    drawn = panels(report)
    figure, axes = plt.subplots(1, len(drawn), figsize=(15, 0.9 + 0.45 * len(names)), sharey=True)
    for axis, (title, values) in zip(axes, drawn, strict=True):
        logarithmic = title.startswith("CPU")
        if logarithmic and values:
            axis.set_xscale("log")
            axis.set_xlim(min(values.values()) / 2, max(values.values()) * 6)
        elif values:
            axis.set_xlim(0, max(1, *values.values()) * 1.25)
        for place, name in enumerate(names):
            if name not in values:
                axis.annotate("failed", (0.02, place), xycoords=("axes fraction", "data"), va="center", fontsize=9)
                continue
            value = values[name]
            axis.barh(place, value, color=OURS if name.startswith("Spillway") else PEERS)
            told = f"{value:,.0f}" if value >= 100 or not logarithmic else f"{value:.1f}"
            if not value:
                told = f"fewer than {report['stream_counts'][0]}"
            axis.annotate(f" {told}", (max(value, axis.get_xlim()[0]), place), va="center", fontsize=9)
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("logarithmic" if logarithmic else "", fontsize=8)
        axis.set_yticks(range(len(names)), names)
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(labelsize=9)
    figure.text(0.01, 0.01, "; ".join(report["surroundings"]), fontsize=7, color="#666666")
    figure.tight_layout(rect=(0, 0.03, 1, 1))
    figure.savefig(out, dpi=110)


if __name__ == "__main__":
    draw(json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2]))

"""The calibration curve, drawn as SVG."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape

from services.validator.confidence.measure import bins

_SIZE, _LEFT, _TOP, _BELOW = 320, 60, 40, 60
_COLOURS = ("#1f6f8b", "#c8553d", "#6a994e", "#7b5ea7")
_TICKS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)


def calibration_picture(title: str, curves: Sequence[tuple[str, Sequence[float], Sequence[bool]]]) -> str:
    """Return an SVG of score against share of right answers, by tenths of the score; a dot is larger for more answers.

    A curve is a name, the scores, and whether each answer was right. On the diagonal a score is what it says.
    """
    width, height = _LEFT + _SIZE + 20, _TOP + _SIZE + _BELOW + 18 * len(curves)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
        'font-family="sans-serif" font-size="12">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
        f'<text x="{_LEFT}" y="24" font-size="14">{escape(title)}</text>',
        *_axes(),
    ]
    for number, (name, scores, right) in enumerate(curves):
        parts += _curve(scores, right, _COLOURS[number % len(_COLOURS)])
        colour, y = _COLOURS[number % len(_COLOURS)], _TOP + _SIZE + _BELOW + 18 * number
        parts.append(f'<circle cx="{_LEFT + 6}" cy="{y - 4}" r="5" fill="{colour}"/>')
        parts.append(f'<text x="{_LEFT + 18}" y="{y}">{escape(name)} ({len(scores)} answers)</text>')
    return "\n".join([*parts, "</svg>", ""])


def _axes() -> Iterator[str]:
    for tick in _TICKS:
        x, y = _x(tick), _y(tick)
        yield f'<path d="M{x} {_y(0)}V{_y(1)}M{_x(0)} {y}H{_x(1)}" stroke="#e4e4e4"/>'
        yield f'<text x="{x}" y="{_y(0) + 16}" text-anchor="middle">{tick:.1f}</text>'
        yield f'<text x="{_LEFT - 8}" y="{y + 4}" text-anchor="end">{tick:.1f}</text>'
    yield f'<path d="M{_x(0)} {_y(0)}L{_x(1)} {_y(1)}" stroke="#999" stroke-dasharray="4 4"/>'
    yield f'<text x="{_x(0.5)}" y="{_y(0) + 34}" text-anchor="middle">score</text>'
    yield (f'<text transform="translate(18 {_y(0.5)}) rotate(-90)" text-anchor="middle">share of right answers</text>')


def _curve(scores: Sequence[float], right: Sequence[bool], colour: str) -> Iterator[str]:
    found = bins(scores, right)
    line = " ".join(f"{_x(each.score)},{_y(each.right)}" for each in found)
    yield f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="1.5"/>'
    for each in found:
        radius = 2 + 9 * (each.count / len(scores)) ** 0.5
        yield f'<circle cx="{_x(each.score)}" cy="{_y(each.right)}" r="{radius:.1f}" fill="{colour}" opacity="0.7"/>'


def _x(share: float) -> float:
    return round(_LEFT + share * _SIZE, 1)


def _y(share: float) -> float:
    return round(_TOP + (1 - share) * _SIZE, 1)

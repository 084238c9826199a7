"""Line charts over state sizes as one SVG, with no library: panels side by side, every line named at its end."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT, TOP, BOTTOM, LEFT, LABELS = 500, 340, 64, 48, 56, 176
"""Of a panel, in pixels; LABELS is the room to the right of the lines."""
INK, FAINT, PAPER = "#24292f", "#d8dee4", "#ffffff"
COLOURS = {"ghost": "#c2571a", "ghost+fit": "#1a7f5a", "balanced": "#0b62c4", "random": "#7d8590",
           "float32": "#7d8590", "bfloat16": "#0b62c4", "int8": "#1a7f5a", "float8_e4m3fn": "#c2571a"}  # fmt: skip
OTHERS = ("#8250df", "#9a6700", "#b62567")
LINE = 15
"""Least distance of two labels."""


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One chart: values as shares by line and kept size, drawn up to `top`; what lies above it leaves the chart."""

    title: str
    lines: Mapping[str, Mapping[int, float]]
    top: float
    form: str
    """Format of the value beside a line's name."""
    axis: str = "{:.0%}"
    """Format of the values on the axis."""
    ticks: Sequence[int] = ()
    """Sizes that are written under the chart; all there are where none are given."""
    tick: str = "{:.0f}"
    unit: int = 1
    """What sizes are written in, and by which format."""
    across: str = "state channels kept (d_state)"
    """What the sizes are."""

    @property
    def sizes(self) -> list[int]:
        return sorted({n for line in self.lines.values() for n in line}, reverse=True)

    @property
    def least(self) -> float:
        """Bottom of the axis: nothing is cut off there."""
        return min(0.0, *(value for line in self.lines.values() for value in line.values()))

    def x(self, n: int) -> float:
        ends = [*self.sizes, *self.ticks]
        first, last = math.log2(max(ends)), math.log2(min(ends))
        return LEFT + (WIDTH - LEFT - LABELS) * (first - math.log2(n)) / ((first - last) or 1.0)

    def y(self, value: float) -> float:
        share = (value - self.least) / (self.top - self.least)
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * share


def round_up(value: float) -> float:
    """The least number that is not below `value` and has plain quarters: 1, 2, 4 or 8 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(value))
    return next((factor * power for factor in (1, 2, 4, 8) if factor * power >= value), 10 * power)


def picture(title: str, panels: Sequence[Panel]) -> str:
    """The panels side by side on white, so that it reads in dark mode as well."""
    width, height = WIDTH * len(panels), HEIGHT
    drawn = "".join(f'<g transform="translate({i * WIDTH} 0)">{_panel(p, i)}</g>\n' for i, p in enumerate(panels))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'role="img" font-family="system-ui, sans-serif" font-size="12" fill="{INK}">\n<title>{escape(title)}</title>\n'
        f'<rect width="{width}" height="{height}" rx="8" fill="{PAPER}"/>\n{drawn}</svg>\n'
    )


def _panel(panel: Panel, number: int) -> str:
    colours = _colours(panel)
    lines = "".join(_line(panel, name, colours[name]) for name in panel.lines)
    inside = (
        f'<clipPath id="inside{number}"><rect x="{LEFT - 6}" y="{TOP - 3}" width="{WIDTH - LEFT - LABELS + 12}" '
        f'height="{HEIGHT - TOP - BOTTOM + 9}"/></clipPath><g clip-path="url(#inside{number})">{lines}</g>'
    )
    heading = f'<text x="{LEFT}" y="32" font-size="15" font-weight="600">{escape(panel.title)}</text>'
    return heading + _grid(panel) + inside + _labels(panel, colours)


def _colours(panel: Panel) -> dict[str, str]:
    """One per method; a recovery shares its method's, unless it has one of its own."""
    spare = iter(OTHERS * len(panel.lines))
    known = dict(COLOURS)
    for name in panel.lines:
        known.setdefault(method := name.partition("+")[0], known.get(method) or next(spare))
    return {name: known.get(name, known[name.partition("+")[0]]) for name in panel.lines}


def _grid(panel: Panel) -> str:
    right = WIDTH - LABELS
    parts = []
    for i in range(5):
        value = panel.top * i / 4
        y = panel.y(value)
        parts.append(f'<path d="M{LEFT} {y:.1f}H{right}" stroke="{FAINT}"/>')
        parts.append(f'<text x="{LEFT - 10}" y="{y + 4:.1f}" text-anchor="end">{panel.axis.format(value)}</text>')
    for n in panel.ticks or panel.sizes:
        size = panel.tick.format(n / panel.unit)
        parts.append(f'<text x="{panel.x(n):.1f}" y="{HEIGHT - BOTTOM + 20}" text-anchor="middle">{size}</text>')
    middle = (LEFT + right) / 2
    parts.append(f'<text x="{middle}" y="{HEIGHT - 10}" text-anchor="middle">{escape(panel.across)}</text>')
    return "".join(parts)


def _line(panel: Panel, name: str, colour: str) -> str:
    dashes = ' stroke-dasharray="5 3"' if "+" in name else ""
    line = panel.lines[name]
    points = [(panel.x(n), panel.y(line[n])) for n in panel.sizes if n in line]
    path = "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
    dots = "".join(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.8" fill="{colour}"/>' for x, y in points)
    return f'<path d="M{path}" fill="none" stroke="{colour}" stroke-width="2"{dashes}/>{dots}'


def _labels(panel: Panel, colours: Mapping[str, str]) -> str:
    """Name and last value at the end of each line, moved apart where they would lie on one another."""
    ends = {name: line[min(line)] for name, line in panel.lines.items()}
    wanted = sorted((panel.y(min(end, panel.top)), -end, name) for name, end in ends.items())
    bottom = HEIGHT - BOTTOM + 4
    heights = apart([y for y, _, _ in wanted], bottom)
    return "".join(
        f'<text x="{WIDTH - LABELS + 10}" y="{y + 4:.1f}" fill="{colours[name]}" font-weight="600">'
        f"{escape(name.replace('+', ' + '))} {panel.form.format(ends[name])}</text>"
        for y, (_, _, name) in zip(heights, wanted, strict=True)
    )


def apart(wanted: Sequence[float], bottom: float) -> list[float]:
    """Heights in rising order, at least LINE from one another and, by moving up, none below `bottom`."""
    placed: list[float] = []
    for y in wanted:
        placed.append(max(y, placed[-1] + LINE) if placed else y)
    for i in reversed(range(len(placed))):
        limit = placed[i + 1] - LINE if i + 1 < len(placed) else bottom
        placed[i] = min(placed[i], limit)
    return placed

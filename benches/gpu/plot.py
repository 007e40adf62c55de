"""A picture of the table `lengths`: time over the length of the sequence, both in logarithms, as an SVG file.

In: what the benchmark of selscan and mamba.py wrote (`--selscan`, `--mamba`; one of them may be left out). Out: a line for
selscan (each of its schedules: default, tuned), mamba_ssm, FlashAttention and the loop over time in PyTorch, by
`graph_ms` where it was measured. Needs nothing but Python.
"""

import argparse
import json
import math
from pathlib import Path
from xml.sax.saxutils import escape

NAMES = {
    "selscan bdl": "selscan",
    "selscan bdl tuned": "selscan, tuned",
    "mamba_ssm bdl": "mamba_ssm",
    "flash_attention bhld": "FlashAttention",
    "torch_loop bdl": "loop in PyTorch",
}
# Told apart by the colour-blind (Okabe & Ito 2008).
COLOURS = ["#0072b2", "#56b4e9", "#d55e00", "#009e73", "#666666"]
WIDTH, HEIGHT = 760, 460
LEFT, TOP, RIGHT, BOTTOM = 80, 50, WIDTH - 150, HEIGHT - 60
LINE = 15  # the least distance of two labels


def read(path):
    """The report in a file, and its rows of the table."""
    report = json.loads(Path(path).read_text()) if path else {}
    report = report if isinstance(report, dict) else {"rows": report}
    return report, [row for row in report.get("rows", []) if row.get("table") == "lengths"]


def series(rows):
    """Points (L, ms) by name, in the order of NAMES."""
    found = {name: {} for name in NAMES.values()}
    for row in rows:
        name = NAMES.get(f"{row.get('impl', 'selscan')} {row['layout']}")
        if name:
            found[name][row["L"]] = row.get("graph_ms") or row["ms"]
    return {name: sorted(points.items()) for name, points in found.items() if points}


def length(n):
    return f"{n // 1024}k" if n >= 1024 else str(n)


def duration(ms):
    for unit, size in (("s", 1e3), ("ms", 1.0)):
        if ms >= size:
            return f"{ms / size:g} {unit}"
    return f"{ms * 1e3:g} µs"


def apart(labels):
    """Labels (y, …) moved down as far as it takes for none to lie on another."""
    below = -math.inf
    for y, *rest in sorted(labels):
        below = max(y, below + LINE)
        yield below, *rest


def svg(title, lines):
    points = [point for own in lines.values() for point in own]
    low, high = min(n for n, _ in points), max(n for n, _ in points)
    least = math.floor(math.log10(min(ms for _, ms in points)))
    most = math.ceil(math.log10(max(ms for _, ms in points)))
    most = max(most, least + 1)

    def x(n):
        return LEFT + (RIGHT - LEFT) * (math.log2(n / low) / (math.log2(high / low) or 1))

    def y(ms):
        return BOTTOM - (BOTTOM - TOP) * (math.log10(ms) - least) / (most - least)

    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" viewBox="0 0 {WIDTH} {HEIGHT}" '
        'font-family="sans-serif" font-size="12">',
        '<rect width="100%" height="100%" fill="white"/>',
        f'<text x="{LEFT}" y="28">{escape(title)}</text>',
    ]
    for decade in range(least, most + 1):
        at = y(10.0**decade)
        out.append(f'<line x1="{LEFT}" y1="{at:.1f}" x2="{RIGHT}" y2="{at:.1f}" stroke="#ddd"/>')
        out.append(f'<text x="{LEFT - 8}" y="{at + 4:.1f}" text-anchor="end">{duration(10.0**decade)}</text>')
    for n in sorted({n for n, _ in points}):
        out.append(f'<line x1="{x(n):.1f}" y1="{BOTTOM}" x2="{x(n):.1f}" y2="{BOTTOM + 4}" stroke="#888"/>')
        out.append(f'<text x="{x(n):.1f}" y="{BOTTOM + 18}" text-anchor="middle">{length(n)}</text>')
    out.append(f'<text x="{(LEFT + RIGHT) / 2}" y="{BOTTOM + 42}" text-anchor="middle">steps</text>')
    labels = []
    for name, own in lines.items():
        colour = COLOURS[list(NAMES.values()).index(name)]
        path = " ".join(f"{x(n):.1f},{y(ms):.1f}" for n, ms in own)
        out.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        out += [f'<circle cx="{x(n):.1f}" cy="{y(ms):.1f}" r="3" fill="{colour}"/>' for n, ms in own]
        n, ms = own[-1]
        labels.append((y(ms) + 4, x(n) + 9, name, colour))
    for at, left, name, colour in apart(labels):
        out.append(f'<text x="{left:.1f}" y="{at:.1f}" fill="{colour}">{escape(name)}</text>')
    return "\n".join([*out, "</svg>", ""])


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--selscan", metavar="FILE", help="what `cargo bench --bench gpu -- --out FILE` wrote")
    parser.add_argument("--mamba", metavar="FILE", help="what `mamba.py --out FILE` wrote")
    parser.add_argument("--out", required=True, metavar="FILE", help="the SVG file to write")
    arguments = parser.parse_args()
    (own, ours), (_, theirs) = read(arguments.selscan), read(arguments.mamba)
    lines = series(ours + theirs)
    if not lines:
        raise SystemExit("neither file has a row of the table `lengths`")
    title = "forward, B 1, width 1024, bf16; N 16, attention with 16 heads of 64"
    if "device" in own:
        title += f"; {own['device'].split(' sm_')[0]}"
    Path(arguments.out).write_text(svg(title, lines))


if __name__ == "__main__":
    main()

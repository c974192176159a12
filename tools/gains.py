"""Draws docs/gains.svg from the figures in benchmarks/results/evidence.md: python -m tools.gains"""

import re
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[1]
FIGURE: Final = ROOT / "docs/gains.svg"
POLICIES: Final = ("learned", "evidence", "bandit", "balance")
HARMS: Final = {"40 % noisy labels": (5, "#0b6bcb"), "30 % flipped labels": (6, "#b35900")}  # column, colour
LEFT, WIDTH, TOP, ROW, BAR = 120, 560, 64, 62, 20


def shares(policy: str, column: int) -> tuple[int, int, int]:
    """A policy's way to the oracle in %, and its 95 % interval."""
    table = (ROOT / "benchmarks/results/evidence.md").read_text()
    line = next(row for row in table.splitlines() if re.match(rf"\| `{policy}`( \(BSS-L\))? \|", row))
    middle, low, high = re.findall(r"-?\d+", line.split("|")[column])
    return int(middle), int(low), int(high)


def bar(y: float, share: tuple[int, int, int], colour: str) -> str:
    """A bar with its interval and its number."""
    middle, low, high = (LEFT + WIDTH * part / 100 for part in share)
    centre = y + BAR / 2
    return (
        f'  <rect x="{LEFT}" y="{y}" width="{middle - LEFT:.1f}" height="{BAR}" fill="{colour}"/>\n'
        f'  <path d="M{low:.1f},{centre} H{high:.1f} M{low:.1f},{centre - 4} v8 M{high:.1f},{centre - 4} v8" '
        'stroke="#1f2328" stroke-width="1.5"/>\n'
        f'  <text x="{high + 8:.1f}" y="{centre + 5}">{share[0]} %</text>\n'
    )


def draw() -> str:
    """The figure as SVG."""
    height = TOP + ROW * len(POLICIES) + 44
    text = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 760 {height}" font-family="system-ui, sans-serif" '
        'font-size="14" fill="#1f2328">\n'
        "  <title>Of what an oracle gains over plain shuffling, how much each policy gains, in %</title>\n"
        f'  <rect width="760" height="{height}" fill="#ffffff"/>\n'
        '  <text x="12" y="24" font-weight="600">Way from plain shuffling (0 %) to an oracle that knows the right '
        "labels (100 %)</text>\n"
    )
    for k, (harm, (_, colour)) in enumerate(HARMS.items()):
        text += f'  <rect x="{LEFT + 190 * k}" y="38" width="14" height="14" fill="{colour}"/>\n'
        text += f'  <text x="{LEFT + 190 * k + 20}" y="50">{harm}</text>\n'
    for k, policy in enumerate(POLICIES):
        y = TOP + ROW * k + 8
        text += f'  <text x="12" y="{y + BAR + 5}">{policy}</text>\n'
        for n, (column, colour) in enumerate(HARMS.values()):
            text += bar(y + n * (BAR + 2), shares(policy, column), colour)
    bottom = TOP + ROW * len(POLICIES)
    for share in range(0, 101, 25):
        x = LEFT + WIDTH * share / 100
        text += f'  <path d="M{x},{TOP} V{bottom}" stroke="#8c959f" stroke-width="0.5"/>\n'
        text += f'  <text x="{x}" y="{bottom + 18}" text-anchor="middle" fill="#57606a">{share} %</text>\n'
    note = "Small networks, seven pairs of modalities, ten paired seeds; 95 % intervals. benchmarks/results/evidence.md"
    return text + f'  <text x="12" y="{height - 6}" font-size="12.5" fill="#57606a">{note}</text>\n</svg>\n'


if __name__ == "__main__":
    FIGURE.write_text(draw())

"""Stacks of samples, as py-spy's raw format gives them, and a flame graph of them: an SVG without scripts.

Width is the share of samples, below is the caller. What is too narrow to see is left out until the file is small enough to be
kept in a repository; pointing at a box shows its whole name and share.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from xml.sax.saxutils import escape

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

WIDTH, ROW, CHAR_WIDTH, HEAD = 1200, 16, 6.5, 24  # pixels
_NARROWEST_SHARE = 0.0005
_COLOURS = ("#e8743b", "#f0a04b", "#f5c469", "#e35b4a", "#eb8f5c", "#f3b25f")

Stack = tuple[str, ...]  # the outermost frame first


def parse(raw: str) -> list[tuple[Stack, int]]:
    """Lines of `frame;frame;frame count`. Raises ValueError."""
    found = []
    for line in raw.splitlines():
        frames, _, count = line.rpartition(" ")
        if frames:
            found.append((tuple(frames.split(";")), int(count)))
    return found


@dataclass(slots=True)
class _Box:
    name: str
    count: int = 0
    above: dict[str, _Box] = field(default_factory=dict)


def svg(stacks: Sequence[tuple[Stack, int]], title: str, bytes_max: int = 300_000) -> str:
    """The picture, of at most so many bytes (characters are ASCII)."""
    root = _Box("all")
    for stack, count in stacks:
        root.count += count
        box = root
        for frame in stack:
            box = box.above.setdefault(frame, _Box(frame))
            box.count += count
    share = _NARROWEST_SHARE
    while len(drawn := _draw(root, title, share)) > bytes_max:
        share *= 1.5
    return drawn


def _draw(root: _Box, title: str, narrowest: float) -> str:
    boxes = list(_placed(root, 0, 0.0, root.count * narrowest))
    height = (max((level for _, level, _ in boxes), default=0) + 1) * ROW + HEAD + 4
    scale = WIDTH / max(root.count, 1)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" font-family="monospace" font-size="11">',
        f'<rect width="100%" height="100%" fill="#fff"/><text x="4" y="16" font-size="13">{_text(title)}</text>',
    ]
    for box, level, at in boxes:
        x, width, y = at * scale, box.count * scale, height - (level + 1) * ROW - 2
        name, percent = _text(box.name), 100 * box.count / max(root.count, 1)
        room = int((width - 4) / CHAR_WIDTH)
        label = f'<text x="{x + 2:.1f}" y="{y + 11}">{_text(box.name[:room])}</text>' if room >= 3 else ""
        fill = _COLOURS[zlib.crc32(box.name.encode()) % len(_COLOURS)]
        rect = f'<rect x="{x:.1f}" y="{y}" width="{max(width - 0.4, 0.2):.1f}" height="{ROW - 1}" fill="{fill}"/>'
        lines.append(f"<g><title>{name} {percent:.1f}%</title>{rect}{label}</g>")
    return "\n".join([*lines, "</svg>"]) + "\n"


def _placed(box: _Box, level: int, at: float, least: float) -> Iterator[tuple[_Box, int, float]]:
    """Boxes with their level and the samples left of them."""
    yield box, level, at
    for child in sorted(box.above.values(), key=lambda one: one.name):
        if child.count > least:
            yield from _placed(child, level + 1, at, least)
        at += child.count


def _text(raw: str) -> str:
    return escape(raw.encode("ascii", "replace").decode())

"""Which concept to read before which other: levels from top to bottom."""

from __future__ import annotations

from blocks.concept_blocks import concepts

from drawing.canvas import Canvas

WIDTH, HEIGHT, COLUMN, ROW = 112, 46, 120, 84
FILLS = {
    "architecture": "blue",
    "training": "yellow",
    "data": "green",
    "generation": "violet",
    "implementation": "gray",
}


def draw() -> Canvas:
    depths: dict[str, int] = {}
    for concept in concepts():
        depths[concept["name"]] = max((depths[name] + 1 for name in concept["after"]), default=0)
    levels = [[one for one in concepts() if depths[one["name"]] == depth] for depth in range(max(depths.values()) + 1)]
    widest = max(map(len, levels))
    canvas = Canvas(
        COLUMN * widest,
        len(levels) * ROW + 10,
        "Dependencies of the concepts",
        "Each concept stands below those to read before it; the colour is its first tag.",
    )
    places: dict[str, tuple[float, float]] = {}
    bends: dict[str, float] = {}  # the height at which its arrows turn, so that those of neighbours differ
    for row, level in enumerate(levels):
        left = 4 + (widest - len(level)) * COLUMN / 2
        for column, concept in enumerate(level):
            places[concept["name"]] = left + column * COLUMN, 5 + row * ROW
            bends[concept["name"]] = 5 + row * ROW + HEIGHT + 10 + 9 * (column % 2)
    for concept in concepts():
        x, y = places[concept["name"]]
        for name in not_implied(concept["after"]):
            (start_x, start_y), bend = places[name], bends[name]
            start, end = start_x + WIDTH / 2, x + WIDTH / 2
            canvas.line([(start, start_y + HEIGHT), (start, bend), (end, bend), (end, y)], head=True, width=1)
    for concept in concepts():
        x, y = places[concept["name"]]
        canvas.box(x, y, WIDTH, HEIGHT, in_lines(concept["name"]), fill=FILLS[concept["tags"][0]], size=11.5)
    for row, (tag, fill) in enumerate(FILLS.items()):
        canvas.box(10, 10 + 22 * row, 14, 14, fill=fill)
        canvas.text(30, 17 + 22 * row, tag, anchor="start", size=12, color="muted")
    return canvas


def not_implied(names: list[str]) -> list[str]:
    """Those that none of the others needs already."""
    return [name for name in names if not any(name in needed_by(other) for other in names)]


def needed_by(name: str) -> set[str]:
    """All concepts to read before this one."""
    after = next(one["after"] for one in concepts() if one["name"] == name)
    return {*after, *(further for inner in after for further in needed_by(inner))}


def in_lines(text: str) -> str:
    """The text in lines of at most 16 letters, where its words allow that."""
    lines = [""]
    for word in text.split():
        if lines[-1] and len(lines[-1]) + len(word) >= 16:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return "\n".join(lines)

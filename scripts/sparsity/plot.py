"""The plot of docs/sparsity.md as SVG, written without a library: active share by context and over training."""

import math
from xml.sax.saxutils import escape

from activity import KEY_UNITS, QUERY_TILES
from tables import KIND_NAMES, last_of

COLORS = dict(zip(KEY_UNITS, ("#1b3a57", "#2a78a8", "#2f9e77", "#d9902f", "#c0392b")))
DASHES = dict(zip(QUERY_TILES, ("", ' stroke-dasharray="5 3"')))
WIDTH, HEIGHT = 200, 170  # of a panel
LEFT, TOP, GAP_X, GAP_Y = 60, 96, 26, 74


class Panel:
    """One set of axes; x: values at even distances, y: shares, logarithmic from `lowest` to 1."""

    def __init__(self, left, top, values, lowest):
        self.left, self.top, self.values, self.lowest = left, top, values, lowest

    def x(self, value):
        place = self.values.index(value) / (len(self.values) - 1) if len(self.values) > 1 else 0.5
        return self.left + 12 + place * (WIDTH - 24)

    def y(self, share):
        return self.top + HEIGHT * math.log(max(share, self.lowest)) / math.log(self.lowest)

    def frame(self, titles, axis, labelled):
        parts = [f'<rect x="{self.left}" y="{self.top}" width="{WIDTH}" height="{HEIGHT}" fill="none" stroke="#888"/>',
                 *(text(self.left + WIDTH / 2, self.top - 8 - 15 * above, title, "middle", "bold" if above else "normal")
                   for above, title in enumerate(reversed(titles)))]
        for value in self.values:
            parts.append(text(self.x(value), self.top + HEIGHT + 15, short(value) if axis == "tokens" else value,
                              "middle"))
        parts.append(text(self.left + WIDTH / 2, self.top + HEIGHT + 30, axis, "middle"))
        decade = 1.0
        while decade >= self.lowest * 0.999:
            y = self.y(decade)
            parts.append(f'<line x1="{self.left}" y1="{y:.1f}" x2="{self.left + WIDTH}" y2="{y:.1f}" stroke="#ddd"/>')
            if labelled:
                parts.append(text(self.left - 6, y + 4, f"{100 * decade:g} %", "end"))
            decade /= 10
        return parts

    def lines(self, records, key):
        parts = []
        for tile in QUERY_TILES:
            for unit in KEY_UNITS:
                points = [(self.x(r[key]), self.y(r[f"share_{tile}x{unit}"])) for r in records]
                path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
                parts.append(f'<polyline points="{path}" fill="none" stroke="{COLORS[unit]}" stroke-width="1.6"'
                             f'{DASHES[tile]}/>')
                parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2" fill="{COLORS[unit]}"/>' for x, y in points]
        return parts


def text(x, y, words, anchor="start", weight="normal"):
    return (f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-weight="{weight}">{escape(str(words))}</text>')


def short(tokens):
    return f"{tokens // 1024}k" if tokens % 1024 == 0 else str(tokens)


def legend():
    parts = [text(LEFT, 20, "Active share of the visible units of keys", weight="bold")]
    x = LEFT
    for unit in KEY_UNITS:
        parts.append(f'<line x1="{x}" y1="40" x2="{x + 22}" y2="40" stroke="{COLORS[unit]}" stroke-width="2"/>')
        parts.append(text(x + 27, 44, f"{unit} key{'s' if unit > 1 else ''}"))
        x += 92
    for tile in QUERY_TILES:
        parts.append(f'<line x1="{x}" y1="40" x2="{x + 22}" y2="40" stroke="#333" stroke-width="2"{DASHES[tile]}/>')
        parts.append(text(x + 27, 44, f"{tile} query rows"))
        x += 122
    return parts


def draw(path, kinds):
    """kinds: report.py's records by model, step, kind and context. Upper row: the last step by context; lower row: the
    longest context over training."""
    columns = list(dict.fromkeys((record["model"], record["kind"]) for record in kinds))
    shares = [record[f"share_{tile}x{unit}"] for record in kinds for tile in QUERY_TILES for unit in KEY_UNITS]
    lowest = 10.0 ** min(-1, math.floor(math.log10(max(min(shares), 1e-6))))
    longest = max(record["context"] for record in kinds)
    parts = legend()
    for index, column in enumerate(columns):
        own = [r for r in kinds if (r["model"], r["kind"]) == column]
        left = LEFT + index * (WIDTH + GAP_X)
        by_context = sorted(last_of(own), key=lambda r: r["context"])
        by_step = sorted((r for r in own if r["context"] == longest), key=lambda r: r["step"])
        panel = Panel(left, TOP, [r["context"] for r in by_context], lowest)
        titles = [KIND_NAMES[column[1]] + " heads", f"{column[0]}, step {by_step[-1]['step']}"]
        parts += panel.frame(titles, "tokens", index == 0)
        parts += panel.lines(by_context, "context")
        panel = Panel(left, TOP + HEIGHT + GAP_Y, [r["step"] for r in by_step], lowest)
        parts += panel.frame([f"{short(longest)} tokens"], "training steps", index == 0)
        parts += panel.lines(by_step, "step")
    width = max(LEFT + len(columns) * (WIDTH + GAP_X), LEFT + 760)
    height = TOP + 2 * HEIGHT + GAP_Y + 44
    with open(path, "w", encoding="utf-8") as file:
        file.write(f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
                   f'height="{height}" font-family="sans-serif" font-size="11">\n'
                   f'<rect width="{width}" height="{height}" fill="#fff"/>\n' + "\n".join(parts) + "\n</svg>\n")

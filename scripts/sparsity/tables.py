"""The tables of docs/sparsity.md out of the sums of report.py."""

from activity import KEY_UNITS, QUERY_TILES

KIND_NAMES = {"alibi": "ALiBi", "nope": "NoPE", "rope": "RoPE", "nope + temperature": "NoPE, temperature"}


def percent(share):
    return f"{100 * share:.1f}" if share >= 0.0995 else f"{100 * share:.2f}"


def rows_text(header, rows):
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    return "\n".join(lines + ["| " + " | ".join(str(cell) for cell in row) + " |" for row in rows]) + "\n"


def unit_columns():
    return [f"{tile} x {unit}" for tile in QUERY_TILES for unit in KEY_UNITS] + ["1 x 1"]


def unit_cells(record):
    return [percent(record[f"share_{name.replace(' ', '')}"]) for name in unit_columns()]


def named(record):
    return [record["model"], KIND_NAMES[record["kind"]]]


def last_of(records):
    last = {}
    for record in records:
        last[record["model"]] = max(last.get(record["model"], 0), record["step"])
    return [record for record in records if record["step"] == last[record["model"]]]


def write_tables(path, lists):
    kinds = lists["kinds"]
    longest = max(record["context"] for record in kinds)
    last = last_of(kinds)
    parts = [
        "Active share of what is visible, in percent; columns: query rows of a tile x keys of a unit.\n",
        "### By context, at the last step\n",
        rows_text(["model", "heads", "step", "tokens", *unit_columns()],
                  [named(r) + [r["step"], r["context"], *unit_cells(r)] for r in last]),
        f"### Over training, {longest} tokens\n",
        rows_text(["model", "heads", "step", *unit_columns()],
                  [named(r) + [r["step"], *unit_cells(r)] for r in kinds if r["context"] == longest]),
        "### Supports, and where the active 64 x 64 tiles lie, at the last step\n",
        "Support: keys with a positive weight. Columns are key tiles; the busiest one is active for so many times the "
        "query tiles of the mean one.\n",
        rows_text(["model", "heads", "tokens", "mean support", "largest", "rows over 64, %", "tiles in first column, %",
                   "on diagonal, %", "1-4 left of it, %", "busiest column / mean"],
                  [named(r) + [r["context"], r["mean_support"], r["largest_support"], percent(r["share_rows_over_64"]),
                               percent(r["tiles_in_first_column"]), percent(r["tiles_on_diagonal"]),
                               percent(r["tiles_1_to_4_left_of_it"]), r["busiest_column_over_mean"]] for r in last]),
        f"### By layer, {longest} tokens, at the last step\n",
        rows_text(["model", "heads", "layer", *unit_columns(), "mean support"],
                  [named(r) + [r["layer"], *unit_cells(r), r["mean_support"]] for r in lists["layers"]])]
    if lists["slopes"]:
        parts += [f"### By slope of the ALiBi heads, {longest} tokens, at the last step\n",
                  rows_text(["model", "slope", *unit_columns(), "mean support"],
                            [[r["model"], f"{r['slope']:g}", *unit_cells(r), r["mean_support"]]
                             for r in lists["slopes"]])]
    with open(path, "w", encoding="utf-8") as file:
        file.write("\n".join(parts))

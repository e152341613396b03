"""Counts what captured attention leaves active and writes tables, JSON and a plot: the numbers of docs/sparsity.md.

    python3 scripts/sparsity/report.py CAPTURE... --out FOLDER [--contexts 2048,4096,8192,16384]

CAPTURE: files of asplash-eval --capture, of one or more models and steps; several of one model and step are pooled,
so are the windows in a file. FOLDER receives

    sparsity.json    sums and shares by model, step, context and kind of head; by layer and by slope at the last step
    heads.json       the same of each head of each layer, at each step and context
    sparsity.md      the tables
    sparsity.svg     the plot

Needs python3 with torch; uses the GPU if there is one. On a busy CPU set OMP_NUM_THREADS.
"""

import argparse
import json
import os
import sys
import time

import torch

from activity import KEY_UNITS, QUERY_TILES, ROW_ALIGNMENT, measure_layer
from capture_file import CaptureFile
from plot import draw
from tables import last_of, write_tables

MAXIMA = {"largest_support", "worst_residual"}


def share_of(sums):
    """The sums of heads, layers and windows, and the shares that follow from them."""
    shares = {f"share_{tile}x{unit}": sums[f"active_{tile}x{unit}"] / sums[f"visible_{tile}x{unit}"]
              for tile in QUERY_TILES for unit in KEY_UNITS}
    tiles, heads = sums["tiles"], sums["head_windows"]
    return {"head_windows": heads,
            **{name: round(value, 6) for name, value in shares.items()},
            "share_1x1": round(sums["support"] / sums["visible_pairs"], 6),
            "mean_support": round(sums["support"] / sums["rows"], 2),
            "largest_support": sums["largest_support"],
            "share_rows_over_64": round(sums["rows_over_64"] / sums["rows"], 6),
            "tiles_in_first_column": round(sums["tiles_first"] / tiles, 6),
            "tiles_on_diagonal": round(sums["tiles_diagonal"] / tiles, 6),
            "tiles_1_to_4_left_of_it": round(sums["tiles_near"] / tiles, 6),
            "busiest_column_over_mean": round(sums["busiest_column"] * sums["columns"] / heads / tiles, 2),
            "worst_residual": sums["worst_residual"]}


def pooled(heads, keys):
    """Adds up the records that agree in `keys`; in the order in which they first come."""
    groups = {}
    for head in heads:
        group = groups.setdefault(tuple(head[key] for key in keys), {})
        for name, value in head["sums"].items():
            group[name] = max(group.get(name, 0), value) if name in MAXIMA else group.get(name, 0) + value
    return [dict(zip(keys, values), **share_of(sums)) for values, sums in groups.items()]


def kind_of(capture, head):
    kind = capture.head_kinds[head]
    temperature = capture.metadata["adaptive_temperature"] == "true"
    return "nope + temperature" if kind == "nope" and temperature else kind


def measure_file(capture, contexts, device, chunk_rows):
    """One record a head, layer, window and context."""
    records = []
    for window in range(capture.windows):
        for layer in capture.layers:
            activity = measure_layer(capture.heads(window, layer, "query").to(device),
                                     capture.heads(window, layer, "key").to(device), capture.slopes, capture.scale,
                                     capture.alpha, capture.cu_seqlens(window), chunk_rows)
            for head in range(len(capture.head_kinds)):
                for context in contexts:
                    sums = activity.numbers(head, context)
                    sums.update(head_windows=1, worst_residual=activity.worst_residual)
                    records.append({"model": capture.model, "step": capture.step, "context": context, "layer": layer,
                                    "head": head, "kind": kind_of(capture, head), "slope": capture.slopes[head],
                                    "sums": sums})
    return records


def checked_contexts(captures, contexts):
    shortest = min(capture.context for capture in captures)
    for context in contexts or []:
        if context < 1 or context > shortest:
            sys.exit(f"error: --contexts {context}: must be from 1 to {shortest}, the shortest captured window")
        if context != shortest and context % ROW_ALIGNMENT:
            sys.exit(f"error: --contexts {context}: must be a multiple of {ROW_ALIGNMENT}, or {shortest}, the "
                     "captured window")
    if contexts:
        return sorted(set(contexts))
    halved = [shortest >> n for n in range(4)]
    return sorted(context for context in halved if context == shortest or
                  (context >= ROW_ALIGNMENT and context % ROW_ALIGNMENT == 0))


def open_captures(paths):
    captures = []
    for path in paths:
        try:
            capture = CaptureFile(path)
        except (OSError, ValueError) as error:
            sys.exit(f"error: {error}")
        if capture.metadata["attention"] != "entmax":
            sys.exit(f"error: {path}: attention is {capture.metadata['attention']}, which leaves all active; give "
                     "captures of entmax models")
        captures.append(capture)
    return captures


def provenance(captures, device):
    keys = ("checkpoint", "dataset", "split", "documents", "precision", "device", "version", "window_begins")
    return {"date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "counted_on": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
            "captures": [{"model": c.model, "step": c.step, "alpha": c.alpha, "context": c.context,
                          "trained_context": int(c.metadata["trained_context"]), "layers": c.layers,
                          "windows": c.windows, **{key: c.metadata[key] for key in keys}} for c in captures]}


def write_json(path, head, lists):
    """One record a line, so that changes can be read."""
    parts = [f" {json.dumps(name)}: {json.dumps(value)}" for name, value in head.items()]
    for name, records in lists.items():
        lines = ",\n  ".join(json.dumps(record) for record in records)
        parts.append(f" {json.dumps(name)}: [\n  {lines}\n ]")
    with open(path, "w", encoding="utf-8") as file:
        file.write("{\n" + ",\n".join(parts) + "\n}\n")


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n", maxsplit=1)[0])
    parser.add_argument("captures", nargs="+", metavar="CAPTURE", help="files of asplash-eval --capture")
    parser.add_argument("--out", required=True, help="folder for tables, JSON and plot")
    parser.add_argument("--contexts", type=lambda text: [int(word) for word in text.split(",")],
                        help="tokens counted from the beginning of the windows (default: all, 1/2, 1/4, 1/8)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--chunk-rows", type=int, default=0, help="query rows at a time (default: 1024, CPU: 256)")
    return parser.parse_args()


def main():
    arguments = parse_arguments()
    device = torch.device(arguments.device)
    chunk_rows = arguments.chunk_rows or (1024 if device.type == "cuda" else 256)
    if chunk_rows < 1 or chunk_rows % ROW_ALIGNMENT:
        sys.exit(f"error: --chunk-rows {chunk_rows}: must be a multiple of {ROW_ALIGNMENT}")
    # Scores in fp32 whatever the environment says: an error of 2^-10 moves the edge of supports.
    torch.backends.cuda.matmul.allow_tf32 = False
    captures = sorted(open_captures(arguments.captures), key=lambda c: (c.model, c.step))
    contexts = checked_contexts(captures, arguments.contexts)
    heads = []
    for capture in captures:
        begin = time.time()
        heads += measure_file(capture, contexts, device, chunk_rows)
        print(f"{capture.path}: {capture.model}, step {capture.step}, {capture.windows} windows of {capture.context} "
              f"tokens, {len(capture.layers)} layers: {time.time() - begin:.1f} s", flush=True)

    last = last_of(heads)
    longest = [record for record in last if record["context"] == contexts[-1]]
    lists = {"kinds": pooled(heads, ("model", "step", "kind", "context")),
             "slopes": pooled([r for r in longest if r["kind"] == "alibi"],
                              ("model", "step", "kind", "slope", "context")),
             "layers": pooled(longest, ("model", "step", "kind", "layer", "context"))}
    about = provenance(captures, device)
    os.makedirs(arguments.out, exist_ok=True)
    write_json(os.path.join(arguments.out, "sparsity.json"), about, lists)
    write_json(os.path.join(arguments.out, "heads.json"), about,
               {"heads": pooled(heads, ("model", "step", "kind", "layer", "head", "slope", "context"))})
    write_tables(os.path.join(arguments.out, "sparsity.md"), lists)
    draw(os.path.join(arguments.out, "sparsity.svg"), lists["kinds"])
    worst = max(record["sums"]["worst_residual"] for record in heads)
    print(f"wrote {arguments.out}/sparsity.md, .json, .svg and heads.json; |sum of weights - 1| <= {worst:.1e}")


if __name__ == "__main__":
    main()

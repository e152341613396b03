#!/usr/bin/env python3
"""Compares the losses of training runs step by step with those of the first.

    compare_losses.py RUN_FOLDER RUN_FOLDER... [--tolerance MEAN_DIFFERENCE]

Prints for each other run the loss of step 1, the largest differences and the mean loss of the last half. With
--tolerance, exits with 1 where such means differ by more than that, or runs differ in their steps.
"""
import argparse
import json
import os
import statistics
import sys


def read(folder):
    """step -> line of metrics.jsonl"""
    with open(os.path.join(folder, "metrics.jsonl"), encoding="utf-8") as file:
        lines = [json.loads(line) for line in file]
    return {line["step"]: line for line in lines if "event" not in line}


def in_steps(run, first, last):
    return [line["loss"] for step, line in run.items() if first <= step <= last]


def differences(base, run, first, last):
    return [abs(run[step]["loss"] - line["loss"]) for step, line in base.items() if first <= step <= last]


def mean_of(run, key):
    values = [line[key] for line in run.values() if line.get(key) is not None]
    return statistics.mean(values) if values else None


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+")
    parser.add_argument("--tolerance", type=float)
    options = parser.parse_args()
    runs = {folder: read(folder) for folder in options.folders}
    base = runs[options.folders[0]]
    steps = max(base)
    ranges = [(1, 20), (21, steps // 2), (steps // 2 + 1, steps)]
    ranges = [(first, last) for first, last in ranges if first <= last]
    print("| run | loss of step 1 | " + " | ".join(f"largest difference, steps {a}-{b}" for a, b in ranges)
          + f" | mean loss, steps {ranges[-1][0]}-{steps} | tokens/s (median) | zero tiles | support | passes |")
    print("|---|" + "---|" * (len(ranges) + 6))
    missed = []
    base_mean = statistics.mean(in_steps(base, *ranges[-1]))
    for folder, run in runs.items():
        if run.keys() != base.keys():
            missed.append(f"{folder} has other steps than {options.folders[0]}")
            continue
        mean = statistics.mean(in_steps(run, *ranges[-1]))
        cells = [os.path.basename(os.path.normpath(folder)), f"{run[min(run)]['loss']:.4f}"]
        cells += [f"{max(differences(base, run, a, b)):.4f}" if run is not base else "-" for a, b in ranges]
        cells += [f"{mean:.4f}", f"{statistics.median(line['tokens_per_second'] for line in run.values()):,.0f}"]
        for key, form in (("zero_tile_share", ".1%"), ("mean_support", ".1f"), ("mean_passes", ".3f")):
            value = mean_of(run, key)
            cells.append("-" if value is None else format(value, form))
        print("| " + " | ".join(cells) + " |")
        if options.tolerance is not None and not abs(mean - base_mean) <= options.tolerance:
            missed.append(f"{folder}: the mean differs by {abs(mean - base_mean):.4f}, more than {options.tolerance}")
    for line in missed:
        print("MISSED:", line)
    sys.exit(1 if missed and options.tolerance is not None else 0)


if __name__ == "__main__":
    main()

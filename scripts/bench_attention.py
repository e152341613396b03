#!/usr/bin/env python3
"""Times entmax attention against its rivals on one GPU, or measures its accuracy, all in one process.

    scripts/bench_attention.py [--library FILE] [--adasplash FOLDER] [--check]      times, writes the JSON file
    scripts/bench_attention.py --accuracy [--captured FILE...] [--check]            errors against fp64

Rivals: PyTorch's FlashAttention-2 and cuDNN (dense softmax, whose time does not depend on the inputs) and the PyPI
package adasplash as released, niter=1, if FOLDER holds its unpacked wheel. One that fails gives a row with a reason.
Inputs have a known share of all-zero 64 x 64 tiles (bench/inputs.py). Times are medians over calls, caches flushed
between them; forward is without gradient, backward is autograd's call.

--check exits with 1 if a goal is missed:
  forward + backward at most 1.0 of adasplash's, 0.8 from a share of 0.7 on, 0.6 with half of the heads ALiBi;
  the rows published for AdaSplash-2 (of FlashAttention-2) beaten; errors at most those of bench/accuracy.py.
"""
import argparse
import datetime
import json
import os
import sys
import time
import warnings

os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
warnings.filterwarnings("ignore", message="Failed to initialize NumPy")
try:
    import torch  # noqa: E402
except ImportError as error:
    sys.exit(f"bench_attention.py: {error}; it needs a Python with PyTorch 2.11, as scripts/test.sh sets one up: "
             "~/.cache/asplash/torch-2.11.0/bin/python3")

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
from bench import accuracy, impls, inputs  # noqa: E402
from bench.timing import median_ms  # noqa: E402

TOP = os.path.dirname(HERE)
SHARES = (0.0, 0.6, 0.7, 0.8, 0.85, 0.9)
#: (tokens, wanted share): forward + backward of AdaSplash-2 over FlashAttention-2, as published.
PUBLISHED = {(4096, 0.7): 0.94, (8192, 0.8): 0.88, (16384, 0.85): 0.81}
NAMES = {"flash2": "FlashAttention-2", "cudnn": "cuDNN", "adasplash2": "AdaSplash-2", "asplash": "ours"}


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--library", default=os.path.join(TOP, "build/release/lib/libasplash_ops.so"))
    parser.add_argument("--adasplash", metavar="FOLDER", help="the unpacked wheel of the PyPI package")
    parser.add_argument("--output", default=os.path.join(TOP, "docs/benchmarks/attention.json"))
    parser.add_argument("--tokens", type=int, nargs="+", default=[4096, 8192, 16384])
    parser.add_argument("--head-dims", type=int, nargs="+", default=[64, 128])
    parser.add_argument("--shares", type=float, nargs="+", default=list(SHARES))
    parser.add_argument("--heads", type=int, default=16)
    parser.add_argument("--milliseconds", type=float, default=150, help="of calls behind each median")
    parser.add_argument("--seconds", type=float, default=540, help="cases after that are left out, with a reason")
    parser.add_argument("--accuracy", action="store_true", help="measure errors, not times")
    parser.add_argument("--captured", nargs="*", default=[], metavar="FILE",
                        help="accuracy: also on what a model computes, files of asplash-eval --capture")
    parser.add_argument("--cases", nargs="*", default=[], metavar="TEXT", help="accuracy: only cases with that in their names")
    parser.add_argument("--check", action="store_true", help="exit with 1 if a goal is missed")
    return parser.parse_args()


class Bench:
    def __init__(self, options):
        self.options = options
        self.begin = time.perf_counter()
        self.rows, self.missed = [], []
        self.impls = impls.load(options.library, options.adasplash)
        self.common = {"device": torch.cuda.get_device_name(), "date": datetime.date.today().isoformat()}

    def spent(self):
        return time.perf_counter() - self.begin

    def time(self, name, case, tensors, grad, slopes=None):
        """Appends a row and returns it; what an implementation throws becomes the row's reason."""
        query = tensors[0]
        row = {**self.common, "impl": name, "batch": query.shape[0], "heads": query.shape[1],
               "kv_heads": tensors[1].shape[1], "tokens": query.shape[2], "head_dim": query.shape[3],
               "dtype": str(query.dtype).replace("torch.", ""), **case, "forward_ms": None, "backward_ms": None,
               "over_cudnn": None, "over_flash2": None, "over_adasplash2": None,
               "version": self.impls[name].version}
        self.rows.append(row)
        try:
            if self.impls[name].missing:
                raise RuntimeError(self.impls[name].missing)
            if self.spent() > self.options.seconds:
                raise RuntimeError(f"left out: {self.options.seconds:.0f} s had passed")
            call = self.impls[name].call
            began = time.perf_counter()
            leaves = [x.detach().requires_grad_() for x in tensors]
            out = call(*leaves, slopes)
            torch.autograd.grad(out, leaves, grad, retain_graph=True)
            torch.cuda.synchronize()
            first = time.perf_counter() - began
            if first > 5:
                print(f"  ({NAMES[name]}: {first:.0f} s for the first call, compilation included)", flush=True)
            with torch.no_grad():
                row["forward_ms"] = median_ms(lambda: call(*tensors, slopes), self.options.milliseconds)
            row["backward_ms"] = median_ms(lambda: torch.autograd.grad(out, leaves, grad, retain_graph=True),
                                           self.options.milliseconds)
        except Exception as error:  # noqa: BLE001: a rival may fail in any way
            lines = str(error).strip().splitlines() or [type(error).__name__]
            row["reason"] = lines[0][:200]
            row["forward_ms"] = row["backward_ms"] = None
            if name == "asplash" or not self.impls[name].missing:
                print(f"  {NAMES[name]} failed: {row['reason']}", flush=True)
            if name == "asplash":
                self.missed.append(f"ours failed on {describe(row)}: {row['reason']}")
        return row

    def case(self, pattern, wanted, tensors, slopes=None):
        try:
            share = impls.zero_tile_share(tensors, slopes)
        except Exception:  # noqa: BLE001: time() will say why ours fails
            share = wanted
        return {"pattern": pattern, "zero_tile_share": share}

    def compare(self, row, flash2, cudnn, adasplash2):
        for key, rival in (("over_flash2", flash2), ("over_cudnn", cudnn), ("over_adasplash2", adasplash2)):
            row[key] = ratio(row, rival)

    def goal(self, row, what, value, most):
        if value is None:
            self.missed.append(f"{describe(row)}: {what} could not be measured")
        elif value > most:
            self.missed.append(f"{describe(row)}: {what} is {value:.3f}, at most {most} wanted")

    def run_shape(self, tokens, head_dim):
        heads = self.options.heads
        dense = inputs.tiles(tokens, head_dim, 0.0, heads)
        grad = torch.randn_like(dense[0])
        any_input = {"pattern": "any", "zero_tile_share": None}
        flash2 = self.time("flash2", any_input, dense, grad)
        cudnn = self.time("cudnn", any_input, dense, grad)
        for row in (flash2, cudnn):
            self.compare(row, flash2, cudnn, None)
            show(row)
        of_dense = None
        for wanted in self.options.shares:
            tensors = dense if wanted == 0 else inputs.tiles(tokens, head_dim, wanted, heads)
            case = self.case("tiles", wanted, tensors)
            rival = self.time("adasplash2", case, tensors, grad)
            self.compare(rival, flash2, cudnn, rival)
            ours = self.time("asplash", case, tensors, grad)
            self.compare(ours, flash2, cudnn, rival)
            of_dense = rival if wanted == 0 else of_dense
            show(rival)
            show(ours, PUBLISHED.get((tokens, wanted)))
            self.goal(ours, "over AdaSplash-2", ours["over_adasplash2"], 0.8 if wanted >= 0.7 else 1.0)
            if (tokens, wanted) in PUBLISHED:
                self.goal(ours, "over FlashAttention-2", ours["over_flash2"], PUBLISHED[tokens, wanted])
        if tokens == 16384:
            self.run_alibi(dense, grad, flash2, cudnn, of_dense)

    def run_alibi(self, dense, grad, flash2, cudnn, adasplash2):
        """The rival has no ALiBi: its time is that of the same inputs without."""
        slopes = inputs.half_alibi(self.options.heads)
        case = self.case("tiles, half ALiBi", 0.0, dense, slopes)
        ours = self.time("asplash", case, dense, grad, slopes)
        self.compare(ours, flash2, cudnn, adasplash2)
        show(ours)
        self.goal(ours, "over AdaSplash-2", ours["over_adasplash2"], 0.6)

    def cost_of_statistics(self):
        tensors = inputs.tiles(16384, 64, 0.8, self.options.heads)
        with torch.no_grad():
            plain, counted = (median_ms(lambda: impls.forward(*tensors, with_statistics=wanted), 300)
                              for wanted in (False, True))
        print(f"statistics cost {100 * (counted / plain - 1):.1f} % of a forward pass (16384, d = 64, share 0.8: "
              f"{plain:.3f} ms -> {counted:.3f} ms)")

    def write(self):
        os.makedirs(os.path.dirname(os.path.abspath(self.options.output)), exist_ok=True)
        with open(self.options.output, "w", encoding="utf-8") as file:
            file.write("[\n" + ",\n".join(json.dumps(rounded(row)) for row in self.rows) + "\n]\n")

    def run(self):
        print(f"{self.common['device']}, torch {torch.__version__}; times in ms, ratios of forward + backward\n")
        print(HEADER)
        for head_dim in self.options.head_dims:
            for tokens in self.options.tokens:
                self.run_shape(tokens, head_dim)
                self.write()
                print(flush=True)
        try:
            self.cost_of_statistics()
        except RuntimeError as error:
            self.missed.append(f"cost of statistics: {error}")
        print(f"{len(self.rows)} rows in {self.options.output}, {self.spent():.0f} s")


def total(row):
    return None if row is None or row["forward_ms"] is None else row["forward_ms"] + row["backward_ms"]


def ratio(row, rival):
    return total(row) / total(rival) if total(row) is not None and total(rival) is not None else None


def rounded(row):
    return {key: round(value, 4) if isinstance(value, float) else value for key, value in row.items()}


def describe(row):
    share = row["zero_tile_share"]
    return f"{row['tokens']} tokens, d = {row['head_dim']}, {row['pattern']}" + (
        "" if share is None else f" {share:.2f}")


HEADER = (f"{'tokens':>6} {'d':>4} {'zero tiles':>10}  {'':<18} {'forward':>8} {'backward':>8} {'total':>8}  "
          f"{'/FA2':>6} {'/cuDNN':>6} {'/AdaSpl':>7}")


def show(row, published=None):
    def number(value, digits, width):
        return f"{'-' if value is None else format(value, f'.{digits}f'):>{width}}"

    name = NAMES[row["impl"]] + (" half ALiBi" if "ALiBi" in row["pattern"] else "")
    share = "any" if row["zero_tile_share"] is None else f"{row['zero_tile_share']:.3f}"
    line = (f"{row['tokens']:>6} {row['head_dim']:>4} {share:>10}  {name:<18} {number(row['forward_ms'], 3, 8)} "
            f"{number(row['backward_ms'], 3, 8)} {number(total(row), 3, 8)}  {number(row['over_flash2'], 2, 6)} "
            f"{number(row['over_cudnn'], 2, 6)} {number(row['over_adasplash2'], 2, 7)}")
    if published:
        line += f"   AdaSplash-2 as published / FA2: {published:.2f}"
    if row.get("reason"):
        line += f"   {row['reason']}"
    print(line, flush=True)


def main():
    options = parse()
    if not torch.cuda.is_available():
        sys.exit("bench_attention.py: no CUDA device: nothing to time")
    if options.accuracy:
        missed = accuracy.run(impls.load(options.library, options.adasplash), options.captured,
                              options.cases)
    else:
        bench = Bench(options)
        try:
            bench.run()
        finally:
            bench.write()
        missed = bench.missed
    for line in missed:
        print("MISSED:", line)
    sys.exit(1 if options.check and missed else 0)


if __name__ == "__main__":
    main()

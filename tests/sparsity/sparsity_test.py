"""scripts/sparsity/ against its definitions, written out: thresholds by bisection, counts by looking at each pair."""

import json
import os
import struct
import subprocess
import sys
import tempfile
import unittest
import xml.etree.ElementTree

import torch

torch.set_num_threads(1)
SCRIPTS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "scripts", "sparsity")
sys.path.insert(0, SCRIPTS)
from activity import KEY_UNITS, QUERY_TILES, entmax_thresholds, measure_layer  # noqa: E402


def bisected_thresholds(z, alpha):
    """tau of each row of z, fp64, by bisection."""
    low, high = z.amax(1) - 1, z.amax(1)
    for _ in range(60):
        middle = (low + high) / 2
        enough = ((z - middle[:, None]).clamp(min=0) ** (1 / (alpha - 1))).sum(1) >= 1
        low, high = torch.where(enough, middle, low), torch.where(enough, high, middle)
    return low


def active_pairs(query, key, slopes, scale, alpha, boundaries):
    """[heads, tokens, tokens] bool, and what is visible [tokens, tokens]."""
    heads, tokens, _ = query.shape
    document = [max(d for d in range(len(boundaries) - 1) if boundaries[d] <= i) for i in range(tokens)]
    visible = torch.tensor([[j <= i and document[i] == document[j] for j in range(tokens)] for i in range(tokens)])
    positions = torch.arange(tokens)
    active = []
    for head in range(heads):
        scores = scale * query[head].double() @ key[head * key.shape[0] // heads].double().T
        scores -= slopes[head] * (positions[:, None] - positions[None, :])
        z = torch.where(visible, (alpha - 1) * scores, -torch.inf)
        active.append(z > bisected_thresholds(z, alpha)[:, None])
    return torch.stack(active), visible


def units_with_a_pair(pairs, tile, unit):
    tokens = pairs.shape[0]
    return sum(bool(pairs[i:i + tile, j:j + unit].any()) for i in range(0, tokens, tile) for j in range(0, tokens, unit))


class Thresholds(unittest.TestCase):
    def test_weights_sum_to_one(self):
        torch.manual_seed(1)
        for alpha in (1.1, 1.5, 1.8, 2.0):
            for spread in (0.0, 1e-3, 1.0, 30.0):
                z = spread * torch.randn(40, 300, dtype=torch.float64)
                z[:, 7:9] = -torch.inf
                z -= z.amax(1, keepdim=True)
                tau, residual = entmax_thresholds(z, alpha)
                weights = (z - tau).clamp(min=0) ** (1 / (alpha - 1))
                self.assertLess((weights.sum(1) - 1).abs().max().item(), 1e-9, (alpha, spread))
                self.assertLess(residual, 1e-5)

    def test_scores_that_are_not_finite_are_refused(self):
        with self.assertRaises(RuntimeError):
            entmax_thresholds(torch.full((2, 5), torch.nan), 1.5)


class Activity(unittest.TestCase):
    def compare(self, alpha, slopes, boundaries, kv_heads):
        torch.manual_seed(2)
        tokens = boundaries[-1]
        query = torch.randn(len(slopes), tokens, 8).bfloat16()
        key = (2 * torch.randn(kv_heads, tokens, 8)).bfloat16()
        active, visible = active_pairs(query, key, slopes, 0.4, alpha, boundaries)
        activity = measure_layer(query, key, slopes, 0.4, alpha, torch.tensor(boundaries, dtype=torch.int32), 128)
        self.assertLess(activity.worst_residual, 1e-4)
        for head in range(len(slopes)):
            for context in (128, tokens):
                sums = activity.numbers(head, context)
                own, seen = active[head, :context, :context], visible[:context, :context]
                for tile in QUERY_TILES:
                    for unit in KEY_UNITS:
                        self.assertEqual(sums[f"active_{tile}x{unit}"], units_with_a_pair(own, tile, unit))
                        self.assertEqual(sums[f"visible_{tile}x{unit}"], units_with_a_pair(seen, tile, unit))
                self.assertEqual(sums["rows"], context)
                self.assertEqual(sums["support"], int(own.sum()))
                self.assertEqual(sums["largest_support"], int(own.sum(1).max()))
                self.assertEqual(sums["rows_over_64"], int((own.sum(1) > 64).sum()))
                self.assertEqual(sums["visible_pairs"], int(seen.sum()))
                tiles = [(i, j) for i in range(0, context, 64) for j in range(0, context, 64)
                         if own[i:i + 64, j:j + 64].any()]
                self.assertEqual(sums["tiles"], len(tiles))
                self.assertEqual(sums["tiles_first"], sum(j == 0 for _, j in tiles))
                self.assertEqual(sums["tiles_diagonal"], sum(i == j for i, j in tiles))
                self.assertEqual(sums["tiles_near"], sum(0 < i - j <= 256 for i, j in tiles))
                columns = [sum(j == column for _, j in tiles) for column in range(0, context, 64)]
                self.assertEqual((sums["columns"], sums["busiest_column"]), (len(columns), max(columns)))

    def test_alibi_and_plain_heads(self):
        self.compare(1.5, [0.5, 0.0], [0, 330], 2)

    def test_shared_keys_and_documents(self):
        self.compare(1.5, [0.0, 0.25], [0, 60, 200, 201, 256], 1)

    def test_sparsemax_and_other_alphas(self):
        self.compare(2.0, [0.0], [0, 200], 1)
        self.compare(1.3, [0.0], [0, 200], 1)


def write_capture(path, step, temperature=False, changes=None):
    """What asplash-eval --capture writes, as docs/evaluation.md describes it."""
    torch.manual_seed(step)
    tensors = {f"window_0.layer_{layer}.{name}": torch.randn(2, 256, 8).bfloat16()
               for layer in (0, 3) for name in ("query", "key", "value")}
    tensors["window_0.cu_seqlens"] = torch.tensor([0, 256], dtype=torch.int32)
    tensors["alibi_slopes"] = torch.tensor([0.5, 0.0])
    names = {torch.bfloat16: "BF16", torch.int32: "I32", torch.float32: "F32"}
    header = {"__metadata__": {
        "format": "asplash-attention-1", "attention": "entmax", "alpha": "1.5", "scale": "0.35355339059327379",
        "step": str(step), "context": "256", "windows": "1", "layers": "0,3", "head_kinds": "alibi,nope",
        "positions": "nape", "adaptive_temperature": "true" if temperature else "false", "trained_context": "128",
        "checkpoint": "run", "dataset": "valid", "split": "valid", "documents": "stream", "precision": "bf16",
        "device": "cpu", "version": "0", "window_begins": "0", **(changes or {})}}
    data = b""
    for name, tensor in sorted(tensors.items(), key=lambda item: -item[1].element_size()):
        raw = bytes(tensor.contiguous().view(torch.uint8).flatten().tolist())
        header[name] = {"dtype": names[tensor.dtype], "shape": list(tensor.shape),
                        "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text + data)


def report(*arguments):
    return subprocess.run([sys.executable, "-W", "ignore", os.path.join(SCRIPTS, "report.py"), "--device", "cpu",
                           *arguments], capture_output=True, text=True, check=False)


class Report(unittest.TestCase):
    def test_tables_json_and_plot(self):
        with tempfile.TemporaryDirectory() as folder:
            files = [os.path.join(folder, name) for name in ("a", "b", "c")]
            for file, step, temperature in zip(files, (10, 20, 20), (False, False, True)):
                write_capture(file, step, temperature)
            outcome = report(*files, "--out", os.path.join(folder, "out"), "--contexts", "128,256")
            self.assertEqual(outcome.returncode, 0, outcome.stderr)
            with open(os.path.join(folder, "out", "sparsity.json"), encoding="utf-8") as file:
                written = json.load(file)
            self.assertEqual([(r["model"], r["step"], r["kind"], r["context"]) for r in written["kinds"]],
                             [(model, step, kind, context)
                              for model, step, nope in (("nape", 10, "nope"), ("nape", 20, "nope"),
                                                        ("nape + temperature", 20, "nope + temperature"))
                              for kind in ("alibi", nope) for context in (128, 256)])
            for record in written["kinds"]:
                self.assertEqual(record["head_windows"], 2)
                finer = [record[f"share_64x{unit}"] for unit in KEY_UNITS] + [record["share_1x1"]]
                self.assertEqual(finer, sorted(finer, reverse=True))
            with open(os.path.join(folder, "out", "heads.json"), encoding="utf-8") as file:
                self.assertEqual(len(json.load(file)["heads"]), 3 * 2 * 2 * 2)
            with open(os.path.join(folder, "out", "sparsity.md"), encoding="utf-8") as file:
                self.assertIn("| nape + temperature | NoPE, temperature | 20 | 256 |", file.read())
            xml.etree.ElementTree.parse(os.path.join(folder, "out", "sparsity.svg"))

    def test_bad_input_is_refused_by_name(self):
        with tempfile.TemporaryDirectory() as folder:
            file = os.path.join(folder, "a")
            out = os.path.join(folder, "out")
            write_capture(file, 1)
            for contexts, message in (("512", "--contexts 512: must be from 1 to 256"),
                                      ("100", "--contexts 100: must be a multiple of 128")):
                outcome = report(file, "--out", out, "--contexts", contexts)
                self.assertEqual(outcome.returncode, 1)
                self.assertIn(message, outcome.stderr)
            for key, value in (("attention", "softmax"), ("format", "pt")):
                write_capture(file, 1, changes={key: value})
                outcome = report(file, "--out", out)
                self.assertEqual(outcome.returncode, 1)
                self.assertIn(f"error: {file}", outcome.stderr)
            self.assertIn("No such file", report(os.path.join(folder, "none"), "--out", out).stderr)
            self.assertFalse(os.path.exists(out))


if __name__ == "__main__":
    unittest.main()

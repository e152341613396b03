"""The operators in Python: loading, gradients, what torch.library checks, torch.compile.

    python3 python_test.py LIBRARY {cpu|gpu} [UNITTEST_ARGUMENT...]

Exits with 77 (skipped, to CTest) and a message where this Python has no torch 2.11, or where gpu is asked for and there
is none.
"""
import os
import sys
import unittest
import warnings

SKIPPED = 77


def skip(why):
    print(f"skipped: {why}")
    sys.exit(1 if os.environ.get("ASPLASH_REQUIRE_GPU", "0") not in ("", "0") and "GPU" in why else SKIPPED)


warnings.filterwarnings("ignore", message="Failed to initialize NumPy")
try:
    import torch
except ImportError:
    skip(f"{sys.executable} has no torch")
if not torch.__version__.startswith("2.11."):
    skip(f"{sys.executable} has torch {torch.__version__}, the library needs 2.11")

LIBRARY, WHERE = sys.argv[1:3]
if WHERE == "gpu" and not torch.cuda.is_available():
    skip("no CUDA device: GPU tests skipped")
DEVICE = "cuda" if WHERE == "gpu" else "cpu"
torch.ops.load_library(LIBRARY)
ops = torch.ops.asplash


def entmax15(z):
    """1.5-entmax of the last dimension (Peters, Niculae & Martins 2019, algorithm 2)."""
    top, _ = z.sort(dim=-1, descending=True)
    top_max = top[..., :1]
    top = top - top_max
    count = torch.arange(1, z.shape[-1] + 1, dtype=z.dtype, device=z.device)
    mean, mean_square = top.cumsum(-1) / count, top.square().cumsum(-1) / count
    tau = mean - ((1 - count * (mean_square - mean.square())) / count).clamp_min(0).sqrt()
    support = (tau <= top).sum(-1, keepdim=True)
    return (z - top_max - tau.gather(-1, support - 1)).clamp_min(0).square()


def reference(query, key, value, slopes=None):
    """Causal, dense, fp64; differentiable."""
    group = query.shape[1] // key.shape[1]
    query, key, value = query.double(), key.double(), value.double()
    key, value = key.repeat_interleave(group, 1), value.repeat_interleave(group, 1)
    scores = query @ key.transpose(2, 3) / query.shape[3] ** 0.5
    position = torch.arange(query.shape[2], device=query.device)
    distance = position[:, None] - position[None, :]
    if slopes is not None:
        scores = scores - slopes.double()[:, None, None] * distance
    return entmax15((scores / 2).masked_fill(distance < 0, -1e9)) @ value


def make(heads=4, kv_heads=2, tokens=130, head_dim=32, dtype=torch.float32, requires_grad=True, seed=0):
    torch.manual_seed(seed)
    def normal(count):  # [batch, heads, tokens, head_dim] as a projection lays it out
        return torch.randn(1, tokens, count, head_dim, dtype=torch.float64).mul(1.4).to(DEVICE, dtype).transpose(1, 2)
    return [normal(count).detach().requires_grad_(requires_grad) for count in (heads, kv_heads, kv_heads)]


def attend(query, key, value, slopes=None):
    return ops.entmax_attention(query, key, value, alibi_slopes=slopes)


def error(a, b):
    return ((a.double() - b.double()).norm() / b.double().norm()).item()


class PythonTest(unittest.TestCase):
    def assert_matches(self, dtype, tolerance, slopes=None, **shape):
        inputs = make(dtype=dtype, **shape)
        out = attend(*inputs, slopes)
        expected = reference(*inputs, slopes)
        self.assertEqual(out.dtype, dtype)
        self.assertLess(error(out, expected), tolerance)
        grad = torch.randn_like(out)
        grads = torch.autograd.grad(out, inputs, grad)
        for got, want in zip(grads, torch.autograd.grad(expected, inputs, grad.double())):
            self.assertLess(error(got, want), 4 * tolerance)

    def test_matches_the_definition(self):
        self.assert_matches(torch.float32, 1e-5)
        self.assert_matches(torch.float32, 1e-5, slopes=torch.tensor([1, 0.5, 0.25, 0.0], device=DEVICE))
        self.assert_matches(torch.float64, 1e-10)
        self.assert_matches(torch.bfloat16, 5e-3)

    def test_gradients_are_those_of_finite_differences(self):
        inputs = make(heads=2, kv_heads=1, tokens=7, head_dim=4, dtype=torch.float64)
        self.assertTrue(torch.autograd.gradcheck(attend, inputs))

    def test_keeps_the_layout_of_projections(self):
        inputs = make()
        out = attend(*inputs)
        self.assertTrue(out.transpose(1, 2).is_contiguous())
        for x, grad in zip(inputs, torch.autograd.grad(out.sum(), inputs)):
            self.assertEqual(grad.stride(), x.stride())

    def test_torch_library_finds_nothing_wrong(self):
        # It compares outputs, of which some have room that is not filled: that is the same every time.
        torch.use_deterministic_algorithms(True)
        self.addCleanup(torch.use_deterministic_algorithms, False)
        cu = torch.tensor([0, 50, 50, 130], dtype=torch.int32, device=DEVICE)
        slopes = torch.tensor([1, 0.5, 0.25, 0.0], device=DEVICE)
        for dtype in (torch.float32, torch.bfloat16, torch.float64):
            for kwargs in ({}, {"causal": False, "alibi_slopes": slopes},
                           {"cu_seqlens_q": cu, "cu_seqlens_k": cu, "with_statistics": True},
                           {"implementation": "reference"}):
                inputs = make(dtype=dtype)
                torch.library.opcheck(ops.entmax_attention_forward.default, inputs, kwargs)
                kwargs.pop("with_statistics", None)
                torch.library.opcheck(ops.entmax_attention.default, inputs, kwargs)
                with_kernels = DEVICE == "cuda" and dtype != torch.float64 and "implementation" not in kwargs
                inputs = make(dtype=dtype, requires_grad=False)
                out, *saved, _ = ops.entmax_attention_forward(*inputs, **kwargs, for_backward=with_kernels)
                torch.library.opcheck(ops.entmax_attention_backward.default,
                                      (torch.randn_like(out), *inputs, *saved), kwargs)

    def test_refuses_tensors_without_memory_among_others(self):
        query, key, value = make()
        for name, call in (("query", lambda: attend(query, key.to("meta"), value)),
                           ("query", lambda: attend(query, key, value, torch.ones(4, device="meta"))),
                           ("key", lambda: attend(query.to("meta"), key, value.to("meta")))):
            with self.assertRaisesRegex(RuntimeError, f"{name}: on {DEVICE}.*meta"):
                call()
        out, *saved, _ = ops.entmax_attention_forward(query, key, value)
        with self.assertRaisesRegex(RuntimeError, f"grad_out: on {DEVICE}.*meta"):
            ops.entmax_attention_backward(torch.ones_like(out), query, key, value.to("meta"), *saved)

    def assert_compiles(self, backend):
        def block(query, key, value, slopes):
            mixed = ops.entmax_attention(query * 1.5, key, value, alibi_slopes=slopes)
            return mixed.transpose(1, 2).flatten(2).relu()

        slopes = torch.tensor([1, 0.5, 0.25, 0.0], device=DEVICE)
        for dtype in (torch.float32, torch.bfloat16):
            torch._dynamo.reset()
            torch._dynamo.utils.counters.clear()
            compiled = torch.compile(block, fullgraph=True, backend=backend, dynamic=True)
            for tokens in (130, 65, 200):
                inputs = make(tokens=tokens, dtype=dtype)
                out, eager = compiled(*inputs, slopes), block(*inputs, slopes)
                self.assertLess(error(out, eager), 1e-2 if dtype == torch.bfloat16 else 1e-6)
                grads = torch.autograd.grad(out.square().sum(), inputs)
                for got, want in zip(grads, torch.autograd.grad(eager.square().sum(), inputs)):
                    self.assertLess(error(got, want), 2e-2 if dtype == torch.bfloat16 else 1e-5)
            graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
            self.assertEqual(graphs, 1, "a length was compiled for itself")

    def test_compiles_as_one_graph_for_all_lengths(self):
        self.assert_compiles("aot_eager")
        with torch.no_grad():
            torch._dynamo.reset()
            inputs = make(requires_grad=False)
            compiled = torch.compile(attend, fullgraph=True, backend="aot_eager")
            self.assertTrue(compiled(*inputs).equal(attend(*inputs)))

    def test_refuses_by_name(self):
        query, key, value = make(requires_grad=False)
        with self.assertRaisesRegex(RuntimeError, "alpha: 3 is outside"):
            ops.entmax_attention(query, key, value, alpha=3.0)
        with self.assertRaisesRegex(RuntimeError, "implementation: 'fast' is neither 'auto' nor 'reference'"):
            ops.entmax_attention(query, key, value, implementation="fast")
        with self.assertRaisesRegex(RuntimeError, "value: shape"):
            ops.entmax_attention(query, key, value[:, :, 1:])


class PythonGpuTest(PythonTest):
    def test_compiles_with_inductor(self):
        self.assert_compiles("inductor")

    def test_refuses_head_sizes_without_kernels(self):
        for dtype in (torch.float32, torch.bfloat16):
            inputs = make(head_dim=48, dtype=dtype, requires_grad=False)
            with self.assertRaisesRegex(RuntimeError, "head_dim 48 has no CUDA kernels, there are some for 32, "):
                attend(*inputs)
            out = ops.entmax_attention(*inputs, implementation="reference")
            self.assertLess(error(out, reference(*inputs)), 5e-3)

    def test_graphs_replay_what_eager_computes(self):
        inputs = make(dtype=torch.bfloat16)
        grad = torch.randn(1, 4, 130, 32, device=DEVICE, dtype=torch.bfloat16)
        def step():
            out = attend(*inputs)
            return (out.detach(), *torch.autograd.grad(out, inputs, grad))
        eager = step()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            captured = step()
        for _ in range(3):
            for result in captured:
                result.fill_(float("nan"))
            graph.replay()
            for got, want in zip(captured, eager):
                self.assertTrue(got.equal(want))


if __name__ == "__main__":
    suite = PythonGpuTest if WHERE == "gpu" else PythonTest
    loaded = unittest.defaultTestLoader
    if len(sys.argv) > 3:
        tests = unittest.TestSuite(suite(name) for name in sys.argv[3:])
    else:
        tests = loaded.loadTestsFromTestCase(suite)
    outcome = unittest.TextTestRunner(verbosity=2).run(tests)
    sys.exit(0 if outcome.wasSuccessful() else 1)

"""Relative errors of entmax attention against fp64 on the same rounded inputs, and how far weights are from 1."""
import json
import os
import struct

import torch

from . import impls, inputs

#: Relative Frobenius errors that a case must keep to in bf16, whatever the head size: those of AdaSplash-2 at 64. SHARP:
#: the same on scores of standard deviation 9 ("gauss 3"), where rows have few keys and dO.v and delta cancel; also for
#: captured inputs, whose last layers are as sharp.
GOALS = {"out": 0.0024, "dq": 0.0046, "dk": 0.0032, "dv": 0.0024}
SHARP = {"dq": 0.011, "dk": 0.0104}
MASS_GOAL = 1e-3


def threshold(z):
    """tau of 1.5-entmax of the last dimension: from the sorted scores, in fp64 (Peters et al. 2019, algorithm 2)."""
    top = z.sort(dim=-1, descending=True).values
    highest = top[..., :1].clone()
    top -= highest
    count = torch.arange(1, z.shape[-1] + 1, dtype=z.dtype, device=z.device)
    mean = top.cumsum(-1) / count
    square = top.square().cumsum(-1) / count
    tau = mean - ((1 - count * (square - mean * mean)) / count).clamp_min(0).sqrt()
    support = (tau <= top).sum(-1, keepdim=True)
    return highest + tau.gather(-1, support - 1)


def scores(query, key, slopes):
    """z of one key/value head's queries [group, tokens, head_dim], -infinity where hidden."""
    tokens = query.shape[-2]
    position = torch.arange(tokens, device=query.device)
    distance = position[:, None] - position[None, :]
    z = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5
    if slopes is not None:
        z -= slopes.double()[:, None, None] * distance
    return z.mul_(0.5).masked_fill_(distance < 0, -1e30)


def reference(query, key, value, grad, slopes):
    """out, dq, dk, dv and a function tau -> largest |sum p - 1| of each row, head by head so that it fits."""
    group = query.shape[1] // key.shape[1]
    results = [torch.zeros_like(x, dtype=torch.float64) for x in (query, query, key, value)]
    exact = {}
    for batch in range(query.shape[0]):
        for head in range(query.shape[1]):
            own = slice(head, head + 1)
            q, g = query[batch, own].double(), grad[batch, own].double()
            k, v = key[batch, head // group].double(), value[batch, head // group].double()
            z = scores(q, k, None if slopes is None else slopes[own])
            u = (z - threshold(z)).clamp_min_(0)
            p = u.square()
            results[0][batch, own] = p @ v
            dp = g @ v.T
            delta = (u * dp).sum(-1, keepdim=True) / u.sum(-1, keepdim=True)
            ds = u.mul_(dp - delta).div_(q.shape[-1] ** 0.5)
            results[1][batch, own] = ds @ k
            results[2][batch, head // group] += (ds.transpose(1, 2) @ q)[0]
            results[3][batch, head // group] += (p.transpose(1, 2) @ g)[0]
            exact[batch, head] = lambda tau, q=q, k=k, own=own: (
                scores(q, k, None if slopes is None else slopes[own]) - tau.double()[:, None]
            ).clamp_min_(0).square().sum(-1)
    return results, exact


def relative(got, wanted):
    return ((got.double() - wanted).norm() / wanted.norm()).item()


def errors(call, tensors, grad, expected):
    leaves = [x.detach().requires_grad_() for x in tensors]
    out = call(*leaves)
    return {name: relative(got, wanted) for name, got, wanted in
            zip(("out", "dq", "dk", "dv"), (out, *torch.autograd.grad(out, leaves, grad)), expected)}


def mass_of_ones(call, tensors):
    """|sum p - 1| as seen through values of one; what bf16 rounds (0.002) is not seen."""
    out = call(tensors[0], tensors[1], torch.ones_like(tensors[2]))
    return (out.float()[..., 0] - 1).abs().max().item()


def mass_of_tau(tensors, slopes, exact):
    """Largest |sum p - 1| over all rows, in fp64 from the operator's tau."""
    tau = impls.forward(*tensors, slopes)[1]
    return max((mass(tau[batch, head]) - 1).abs().max().item() for (batch, head), mass in exact.items())


TYPES = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32, "I32": torch.int32}


def captured_cases(path):
    """name, tensors, slopes of a file of `asplash-eval --capture`: window 0 of its first, middle and last layer."""
    with open(path, "rb") as file:
        header = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
        begin = file.tell()

        def tensor(name):
            entry = header[name]
            first, last = entry["data_offsets"]
            file.seek(begin + first)
            values = torch.frombuffer(bytearray(file.read(last - first)), dtype=TYPES[entry["dtype"]])
            return values.reshape(entry["shape"]).cuda()

        slopes = tensor("alibi_slopes")
        layers = [int(layer) for layer in header["__metadata__"]["layers"].split(",")]
        for layer in sorted({layers[0], layers[len(layers) // 2], layers[-1]}):
            names = (f"window_0.layer_{layer}.{x}" for x in ("query", "key", "value"))
            yield (f"{os.path.basename(path)}, layer {layer}", tuple(tensor(name)[None] for name in names),
                   slopes if slopes.any() else None)


def cases(captured):
    """name, tensors, slopes"""
    heads = 4
    for head_dim in (64, 128):
        yield f"nearly uniform, 512, d = {head_dim}", inputs.gaussian(512, head_dim, 0.1, heads), None
        yield f"nearly uniform, 4096, d = {head_dim}", inputs.gaussian(4096, head_dim, 0.1, heads), None
        yield f"gauss 1, 2048, d = {head_dim}", inputs.gaussian(2048, head_dim, 1, heads), None
        yield f"gauss 3, 2048, d = {head_dim}", inputs.gaussian(2048, head_dim, 3, heads), None
        yield f"tiles 0.8, 4096, d = {head_dim}", inputs.tiles(4096, head_dim, 0.8, heads), None
        yield (f"half ALiBi, 4096, d = {head_dim}", inputs.tiles(4096, head_dim, 0.0, heads),
               inputs.half_alibi(heads))
    for head_dim in (32, 96, 256):
        yield f"gauss 1, 2048, d = {head_dim}", inputs.gaussian(2048, head_dim, 1, heads), None
    yield "gauss 1, 2048, d = 64, fp16", inputs.gaussian(2048, 64, 1, heads, torch.float16), None
    yield "gauss 1, 1000, d = 64, fp32", inputs.gaussian(1000, 64, 1, heads, torch.float32), None
    yield "gauss 1, 8192, d = 64", inputs.gaussian(8192, 64, 1, 2), None
    for path in captured:
        yield from captured_cases(path)


def show(case, name, found):
    print(f"{case:<30} {name:<12}" + "".join(f" {found.get(key, float('nan')):>9.2g}"
                                             for key in ("out", "dq", "dk", "dv", "mass", "mass of tau")), flush=True)


def run(implementations, captured, wanted):
    """Prints a table; returns the goals that ours misses. wanted: parts of the cases' names, none: all cases."""
    missed = []
    print(f"{'relative Frobenius error':<43} {'out':>9} {'dq':>9} {'dk':>9} {'dv':>9} {'|sum p-1|':>9} {'of tau':>9}")
    for case, tensors, slopes in cases(captured):
        if wanted and not any(part in case for part in wanted):
            continue
        grad = torch.randn(tensors[0].shape, device="cuda").to(tensors[0].dtype)
        expected, exact = reference(*tensors, grad, slopes)
        for name in ("adasplash2", "asplash"):
            impl = implementations[name]
            if impl.missing or (name != "asplash" and (slopes is not None or tensors[0].dtype != torch.bfloat16)):
                continue
            def call(query, key, value, impl=impl):
                return impl.call(query, key, value, slopes)
            try:
                found = errors(call, tensors, grad, expected)
                found["mass"] = mass_of_ones(call, tensors)
                if name == "asplash":
                    found["mass of tau"] = mass_of_tau(tensors, slopes, exact)
                    passes = ", ".join(f"{x:.4f}" for x in impls.passes(tensors, slopes))
            except Exception as error:  # noqa: BLE001: a rival may refuse a shape
                print(f"{case:<30} {name:<12} failed: {(str(error).splitlines() or [repr(error)])[0][:120]}")
                if name == "asplash":
                    missed.append(f"{case}: failed")
                continue
            show(case, name, found)
            if name == "asplash":
                print(f"{'':<30} rows final after 1, 2, 3, more passes: {passes}")
                goals = {**GOALS, "mass of tau": MASS_GOAL}
                if case.startswith("gauss 3") or ".safetensors" in case:
                    goals.update(SHARP)
                missed += [f"{case}: {key} is {found[key]:.2g}, at most {most} wanted"
                           for key, most in goals.items() if not found[key] <= most]
    return missed

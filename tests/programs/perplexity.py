"""Perplexity of the windows of a packed split, by exported weights and nothing of asplash: what asplash-eval must say.

    perplexity.py MODEL SPLIT CONTEXT TARGETS     MODEL: folder of asplash-convert to-hf, or a checkpoint
"""
import json
import math
import struct
import sys

import torch

model, split, context, count = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
c, raw = json.load(open(model + "/config.json")), open(model + "/model.safetensors", "rb").read()
start = 8 + struct.unpack("<Q", raw[:8])[0]
w = {name: torch.frombuffer(bytearray(raw[start + at["data_offsets"][0]:start + at["data_offsets"][1]]), dtype=torch.float32)
     .view(at["shape"]).double() for name, at in json.loads(raw[8:start]).items() if name != "__metadata__"}
tokens = torch.cat([torch.frombuffer(bytearray(open(f"{split}/{s['file']}", "rb").read()[4096:4096 + 2 * s["tokens"]]),
                                     dtype=torch.uint16) for s in json.load(open(split + "/manifest.json"))["shards"]]).long()[:count + 1]
heads, d, own = c["num_attention_heads"], c["head_dim"], c.get("asplash", {})
alpha, slopes = own.get("attention", {}).get("alpha", 1), torch.tensor(own.get("positions", {}).get("alibi_slopes") or [0.0] * heads)


def norm(x, name):
    return x * (x.pow(2).mean(-1, keepdim=True) + c["rms_norm_eps"]).rsqrt() * w[name + ".weight"]


def rotated(x):
    if "rope_theta" not in c: return x
    angle = torch.arange(x.shape[1])[:, None] * c["rope_theta"] ** (-torch.arange(d // 2).double() / (d // 2))
    a, b = x.chunk(2, -1)
    return torch.cat((a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin()), -1)


def weights_of(scores):  # softmax, or entmax by bisection
    if alpha == 1: return scores.softmax(-1)
    low, high = ((alpha - 1) * scores.amax(-1, keepdim=True) - 1), (alpha - 1) * scores.amax(-1, keepdim=True)
    for _ in range(60):
        middle = (low + high) / 2
        enough = ((alpha - 1) * scores - middle).clamp_min(0).pow(1 / (alpha - 1)).sum(-1, keepdim=True) >= 1
        low, high = torch.where(enough, middle, low), torch.where(enough, high, middle)
    return ((alpha - 1) * scores - low).clamp_min(0).pow(1 / (alpha - 1))


def losses(ids, targets):
    x, far = w["model.embed_tokens.weight"][ids], torch.arange(len(ids))[:, None] - torch.arange(len(ids))
    for p in (f"model.layers.{i}." for i in range(c["num_hidden_layers"])):
        h = norm(x, p + "input_layernorm")
        q, k, v = ((h @ w[f"{p}self_attn.{n}_proj.weight"].T).view(len(ids), -1, d).transpose(0, 1) for n in "qkv")
        q, k = (norm(t, f"{p}self_attn.{n}_norm") if f"{p}self_attn.{n}_norm.weight" in w else t for n, t in (("q", q), ("k", k)))
        k, v = (t.repeat_interleave(heads // t.shape[0], 0) for t in (rotated(k), v))
        scores = (rotated(q) @ k.transpose(1, 2) / d ** 0.5 - slopes[:, None, None] * far).masked_fill(far < 0, -math.inf)
        x = x + (weights_of(scores) @ v).transpose(0, 1).reshape(len(ids), -1) @ w[p + "self_attn.o_proj.weight"].T
        h = norm(x, p + "post_attention_layernorm")
        gate, up = h @ w[p + "mlp.gate_proj.weight"].T, h @ w[p + "mlp.up_proj.weight"].T
        x = x + (torch.nn.functional.silu(gate) * up) @ w[p + "mlp.down_proj.weight"].T
    logits = norm(x, "model.norm") @ w.get("lm_head.weight", w["model.embed_tokens.weight"]).T
    return torch.nn.functional.cross_entropy(logits, targets, reduction="sum")


ends = range(0, len(tokens) - 1, context)
total = sum(losses(tokens[i:min(i + context, len(tokens) - 1)], tokens[i + 1:i + 1 + context]).item() for i in ends)
print(json.dumps({"perplexity": math.exp(total / (len(tokens) - 1)), "target_tokens": len(tokens) - 1}))

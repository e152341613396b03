"""Trains the same model on the same data in compiled PyTorch and compares the loss, step by step.

The reference against which asplash-train's loss is held on a GPU: it starts from the run's own step-0
checkpoint, reads the run's own token shards in the run's own order (the sampler is written again here, from
its description in src/asplash/data/sampler.h), takes each step's learning rate from the run's metrics, and
does everything else its own way: torch.compile, autocast to bf16 over fp32 weights, PyTorch's AdamW, SDPA for
RoPE and FlexAttention with a score function for ALiBi heads.

    python3 scripts/reference/torch_reference.py RUN_FOLDER [--out reference.jsonl] [--steps N]

RUN_FOLDER must hold checkpoints/step_00000000, config.yaml and metrics.jsonl of a finished run with one
micro-batch order: softmax attention, no packed documents. Needs torch >= 2.11, numpy, PyYAML, safetensors.
"""

import argparse
import json
import os
import time

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
import yaml
from safetensors.torch import load_file
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

from tokens import Sampler, Tokens


class Block(nn.Module):
    def __init__(self, config, slopes):
        super().__init__()
        width, heads, mlp = config["width"], config["heads"], config["mlp_width"]
        self.heads, self.head_dim, self.slopes = heads, config["head_dim"], slopes
        self.attention_norm = nn.RMSNorm(width, eps=config["norm_eps"])
        self.mlp_norm = nn.RMSNorm(width, eps=config["norm_eps"])
        self.qkv = nn.Linear(width, 3 * heads * self.head_dim, bias=False)
        self.out = nn.Linear(heads * self.head_dim, width, bias=False)
        self.gate_up = nn.Linear(width, 2 * mlp, bias=False)
        self.down = nn.Linear(mlp, width, bias=False)

    def forward(self, x, cos, sin, mask):
        batch, tokens, _ = x.shape
        q, k, v = self.qkv(self.attention_norm(x)).view(batch, tokens, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        if self.slopes is None:
            def rotate(t):
                a, b = t.float().chunk(2, -1)
                return torch.cat([a * cos - b * sin, b * cos + a * sin], -1).to(t.dtype)
            a = F.scaled_dot_product_attention(rotate(q), rotate(k), v, is_causal=True)
        else:
            slopes = self.slopes
            a = flex_attention(q, k, v, block_mask=mask,
                               score_mod=lambda score, b, h, i, j: score - slopes[h] * (i - j))
        x = x + self.out(a.transpose(1, 2).reshape(batch, tokens, -1))
        gate, up = self.gate_up(self.mlp_norm(x)).chunk(2, -1)
        return x + self.down(F.silu(gate) * up)


class Decoder(nn.Module):
    def __init__(self, config, slopes):
        super().__init__()
        self.embedding = nn.Embedding(config["vocab_size"], config["width"])
        self.blocks = nn.ModuleList(Block(config, slopes) for _ in range(config["layers"]))
        self.norm = nn.RMSNorm(config["width"], eps=config["norm_eps"])

    def forward(self, tokens, targets, cos, sin, mask):
        x = self.embedding(tokens)
        for block in self.blocks:
            x = block(x, cos, sin, mask)
        logits = F.linear(self.norm(x), self.embedding.weight)
        return F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten())

    def load_llama_names(self, weights):
        def put(parameter, *names):
            value = torch.cat([weights.pop(n) for n in names])
            assert value.shape == parameter.shape, (names, value.shape, parameter.shape)
            parameter.data.copy_(value)
        put(self.embedding.weight, "model.embed_tokens.weight")
        for i, b in enumerate(self.blocks):
            p = f"model.layers.{i}."
            put(b.qkv.weight, *(p + f"self_attn.{n}_proj.weight" for n in "qkv"))
            put(b.out.weight, p + "self_attn.o_proj.weight")
            put(b.gate_up.weight, p + "mlp.gate_proj.weight", p + "mlp.up_proj.weight")
            put(b.down.weight, p + "mlp.down_proj.weight")
            put(b.attention_norm.weight, p + "input_layernorm.weight")
            put(b.mlp_norm.weight, p + "post_attention_layernorm.weight")
        put(self.norm.weight, "model.norm.weight")
        assert not weights, f"weights without a place: {sorted(weights)}"


def head_slopes(config):
    """ALiBi slope of each head, or None for RoPE."""
    positions, heads = config["positions"], config["heads"]
    if positions["kind"] == "rope":
        return None
    assert positions["kind"] in ("alibi", "nape") and positions["slopes"] == "geometric", positions
    count = heads if positions["kind"] == "alibi" else round(heads * positions["alibi_share"])
    slopes = [positions["slope_first"] * positions["slope_ratio"] ** h for h in range(count)]
    return torch.tensor(slopes + [0.0] * (heads - count), device="cuda")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("--out")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--perturb", type=float, default=0.0, metavar="SCALE",
                        help="multiply each initial weight by 1 + SCALE * N(0, 1): how far the reference strays from "
                             "itself for less than a rounding to bf16 (1e-4) is the noise of the comparison")
    parser.add_argument("--seed", type=int, default=0, help="of --perturb")
    parser.add_argument("--precision", choices=["bf16", "fp32"], default="bf16",
                        help="fp32 takes no tensor cores: against a run with train.precision=fp32")
    args = parser.parse_args()

    with open(os.path.join(args.run, "config.yaml"), encoding="utf-8") as file:
        config = yaml.safe_load(file)
    with open(os.path.join(args.run, "metrics.jsonl"), encoding="utf-8") as file:
        ours = [line for line in map(json.loads, file) if "grad_norm" in line]
    model_config, optim, data, train = (config[k] for k in ("model", "optim", "data", "train"))
    assert model_config["attention"]["function"] == "softmax" and data["documents"] == "stream"
    assert model_config["tied_embeddings"] and not model_config["qk_norm"]

    torch.manual_seed(args.seed)
    torch.set_float32_matmul_precision("highest" if args.precision == "fp32" else "high")
    torch._dynamo.config.recompile_limit = 64
    model = Decoder(model_config, head_slopes(model_config)).cuda()
    model.load_llama_names(load_file(os.path.join(args.run, "checkpoints/step_00000000/model.safetensors")))
    if args.perturb:
        for parameter in model.parameters():
            parameter.data *= 1 + args.perturb * torch.randn_like(parameter)

    context = data["context"]
    sequences = train["tokens_per_step"] // context
    rows = train["micro_batch"] or sequences
    tokens = Tokens(data["train"])
    sampler = Sampler((len(tokens) - 1) // context, train["seed"], data["shuffle"])
    f = torch.outer(torch.arange(context).float(),
                    model_config["positions"]["rope_theta"] ** (-torch.arange(0, model_config["head_dim"], 2).float()
                                                                / model_config["head_dim"])).cuda()
    cos, sin = f.cos(), f.sin()
    mask = create_block_mask(lambda b, h, i, j: i >= j, None, None, context, context)

    decay = [p for p in model.parameters() if p.dim() > 1]
    plain = [p for p in model.parameters() if p.dim() == 1]
    optimizer = torch.optim.AdamW([dict(params=decay, weight_decay=optim["weight_decay"]),
                                   dict(params=plain, weight_decay=0.0)],
                                  lr=optim["lr"], betas=(optim["beta1"], optim["beta2"]), eps=optim["eps"], fused=True)
    compiled = torch.compile(model, dynamic=False)

    def micro_batch(first):
        windows = [sampler.window(0, first + r) * context for r in range(rows)]
        a = np.stack([tokens.read(w, context + 1) for w in windows]).astype(np.int64)
        a = torch.from_numpy(a).cuda(non_blocking=True)
        return a[:, :-1], a[:, 1:]

    out, times = [], []
    for step in range(args.steps or len(ours)):
        start = time.perf_counter()
        for group in optimizer.param_groups:
            group["lr"] = ours[step]["lr"]
        total = 0.0
        for m in range(sequences // rows):
            x, y = micro_batch(step * sequences + m * rows)
            with torch.autocast("cuda", dtype=torch.bfloat16, enabled=args.precision == "bf16"):
                loss = compiled(x, y, cos, sin, mask) * rows / sequences
            loss.backward()
            total += loss.detach()
        norm = nn.utils.clip_grad_norm_(model.parameters(), optim["clip_norm"])
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        out.append({"step": step + 1, "loss": total.item(), "grad_norm": norm.item(),
                    "ours": ours[step]["loss"], "our_grad_norm": ours[step]["grad_norm"]})
        times.append(time.perf_counter() - start)
        if step < 3 or (step + 1) % 20 == 0:
            r = out[-1]
            print(f"step {step + 1:4d}  reference {r['loss']:.4f}  ours {r['ours']:.4f}  "
                  f"difference {r['ours'] - r['loss']:+.4f}  norms {r['grad_norm']:.3f} {r['our_grad_norm']:.3f}", flush=True)

    gaps = np.array([r["ours"] - r["loss"] for r in out])
    tail = gaps[len(gaps) // 2:]
    print(json.dumps({"run": args.run, "steps": len(out), "device": torch.cuda.get_device_name(),
                      "largest_difference": round(float(np.abs(gaps).max()), 4),
                      "mean_difference_second_half": round(float(tail.mean()), 5),
                      "mean_loss_second_half": round(float(np.mean([r["loss"] for r in out[len(out) // 2:]])), 5),
                      "our_mean_loss_second_half": round(float(np.mean([r["ours"] for r in out[len(out) // 2:]])), 5),
                      "perturb": args.perturb, "seed": args.seed, "precision": args.precision,
                      "reference_tokens_per_second": round(train["tokens_per_step"] / float(np.median(times))),
                      "our_tokens_per_second": round(float(np.median([r["tokens_per_second"] for r in ours])))}))
    if args.out:
        with open(args.out, "w", encoding="utf-8") as file:
            file.writelines(json.dumps(r) + "\n" for r in out)


if __name__ == "__main__":
    main()

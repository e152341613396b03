"""Opens an exported softmax model in Hugging Face transformers and compares it with asplash-eval: logits of a window,
perplexity of all windows, and the tokenizer's ids. Each must agree to 1e-4 (relative; ids: be the same).

Run where torch and transformers are installed, after scripts/test.sh:

    python3 -m venv hf && hf/bin/pip install torch==2.11.0 transformers==4.57.3 sentencepiece protobuf
    hf/bin/python scripts/huggingface/check.py CHECKPOINT SPLIT CONTEXT

CHECKPOINT: of a softmax model with RoPE, or a run folder; SPLIT: packed with its tokenizer. On the CPU, in fp32.
ASPLASH_BUILD: where the programs are (default: build/release).
"""
import json
import math
import os
import pathlib
import subprocess
import sys
import tempfile

import torch
import transformers
from safetensors.torch import load_file

TOLERANCE = 1e-4
ROOT = pathlib.Path(__file__).resolve().parents[2]
PROGRAMS = pathlib.Path(os.environ.get("ASPLASH_BUILD", ROOT / "build/release")) / "bin"


def run(program, *words):
    done = subprocess.run([PROGRAMS / program, *map(str, words)], capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{program} failed: {done.stderr}")
    return done.stdout.strip()


def read_tokens(split):
    """All tokens of a split packed with a vocabulary of at most 65536."""
    manifest = json.loads((split / "manifest.json").read_text())
    parts = []
    for shard in manifest["shards"]:
        content = bytearray((split / shard["file"]).read_bytes())
        parts.append(torch.frombuffer(content, dtype=torch.uint16, count=shard["tokens"], offset=4096))
    return torch.cat(parts).long()


@torch.no_grad()
def perplexity(model, tokens, context):
    total, targets = 0.0, len(tokens) - 1
    for begin in range(0, targets, context):
        ids = tokens[begin:min(begin + context, targets)]
        logits = model(ids[None]).logits[0]
        total += torch.nn.functional.cross_entropy(logits, tokens[begin + 1:begin + 1 + len(ids)], reduction="sum").item()
    return math.exp(total / targets), targets


def judge(what, difference):
    ok = difference <= TOLERANCE
    print(f"{'ok' if ok else 'DIFFERS'}: {what}: {difference:.1e}, at most {TOLERANCE:.0e}")
    return ok


def judge_tokenizer(folder, tokens):
    """The text of the first packed documents, encoded by transformers' slow and fast tokenizer, is those tokens."""
    ok = True
    for fast in (False, True):
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, use_fast=fast)
        begins = (tokens == tokenizer.bos_token_id).nonzero().flatten().tolist()[:4]
        for begin, end in zip(begins, begins[1:]):
            ids = [i for i in tokens[begin:end].tolist() if i not in (tokenizer.bos_token_id, tokenizer.eos_token_id)]
            text = tokenizer.decode(ids)
            same = tokenizer(text, add_special_tokens=False).input_ids == ids
            print(f"{'ok' if same else 'DIFFERS'}: {type(tokenizer).__name__}: {len(ids)} ids of {text[:30]!r}...")
            ok = ok and same
    return ok


def main():
    checkpoint, split, context = sys.argv[1], pathlib.Path(sys.argv[2]), int(sys.argv[3])
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        print(run("asplash-convert", "to-hf", "--checkpoint", checkpoint, "--output", folder / "hf"))
        run("asplash-eval", "--checkpoint", checkpoint, "--data", split, "--context", context, "--documents", "stream",
            "--device", "cpu", "--json", folder / "evaluation.json", "--logits", folder / "logits.safetensors")
        ours = json.loads((folder / "evaluation.json").read_text())["results"][0]
        window = load_file(folder / "logits.safetensors")
        model = transformers.AutoModelForCausalLM.from_pretrained(folder / "hf", dtype=torch.float32).eval()
        print(f"transformers {transformers.__version__}, torch {torch.__version__}: {type(model).__name__}, "
              f"{sum(p.numel() for p in model.parameters()):,} parameters")
        tokens = read_tokens(split)
        with torch.no_grad():
            logits = model(window["tokens"][None].long()).logits[0]
        theirs, targets = perplexity(model, tokens, context)
        assert targets == ours["target_tokens"] and torch.equal(window["tokens"].long(), tokens[:context])
        results = [
            judge(f"logits of {context} tokens (largest difference over largest logit)",
                  ((logits - window["logits"]).abs().max() / logits.abs().max()).item()),
            judge(f"perplexity of {targets} targets, ours {ours['perplexity']:.6f}, transformers' {theirs:.6f}",
                  abs(ours["perplexity"] / theirs - 1)),
            judge_tokenizer(folder / "hf", tokens)]
    sys.exit(0 if all(results) else 1)


if __name__ == "__main__":
    main()

"""Makes tests/model/golden: tiny random Llama and Qwen3 models by Hugging Face transformers, with tokens, logits,
loss and all gradients (fp32, CPU), for the decoder to be compared with.

Run where torch and transformers are installed (last run: torch 2.11.0, transformers 4.57.3):
    python3 scripts/golden/make_llama.py tests/model/golden
"""
import json
import pathlib
import sys

import torch
import transformers
from safetensors.torch import save_file

SHAPE = dict(vocab_size=61, hidden_size=24, intermediate_size=40, num_hidden_layers=2, num_attention_heads=4,
             num_key_value_heads=2, max_position_embeddings=64, rms_norm_eps=1e-5, rope_theta=10000.0,
             attention_bias=False, attn_implementation="eager")
BATCH, TOKENS, SEED, IGNORED = 2, 13, 7, -100


def randomize(model):
    """Weights large enough that every part matters: scores and logits of order one, norms away from 1."""
    generator = torch.Generator().manual_seed(SEED)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(1 + 0.2 * noise if "norm" in name else 0.25 * noise)


def make(folder, name, model, tied):
    randomize(model)
    generator = torch.Generator().manual_seed(SEED + 1)
    tokens = torch.randint(SHAPE["vocab_size"], (BATCH, TOKENS + 1), generator=generator)
    targets = tokens[:, 1:].clone()
    targets[0, 5] = targets[1, 0] = IGNORED
    tokens = tokens[:, :-1].contiguous()
    logits = model(tokens).logits
    loss_sum = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="sum",
                                                 ignore_index=IGNORED)
    loss_sum.backward()
    tensors = {"tokens": tokens.int(), "targets": targets.int(), "logits": logits.detach(), "loss_sum": loss_sum.detach()}
    for key, parameter in model.named_parameters():
        tensors["weight/" + key] = parameter.detach()
        tensors["gradient/" + key] = parameter.grad
    save_file({k: v.contiguous() for k, v in tensors.items()}, folder / f"{name}.safetensors")
    config = model.config
    (folder / f"{name}.json").write_text(json.dumps(dict(
        vocab_size=config.vocab_size, width=config.hidden_size, mlp_width=config.intermediate_size,
        layers=config.num_hidden_layers, heads=config.num_attention_heads, kv_heads=config.num_key_value_heads,
        head_dim=config.head_dim, norm_eps=config.rms_norm_eps, rope_theta=config.rope_theta, tied_embeddings=tied,
        qk_norm=name.startswith("qwen3"), made_by=f"transformers {transformers.__version__}, torch {torch.__version__}"),
        indent=1) + "\n")


def main():
    folder = pathlib.Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(SEED)
    llama = transformers.LlamaConfig(**SHAPE, tie_word_embeddings=False)
    make(folder, "llama", transformers.LlamaForCausalLM(llama), tied=False)
    # Head size apart from width / heads, tied embeddings, QK-norm.
    qwen3 = transformers.Qwen3Config(**SHAPE, head_dim=8, tie_word_embeddings=True)
    make(folder, "qwen3", transformers.Qwen3ForCausalLM(qwen3), tied=True)


main()

"""Makes tests/model/golden: tiny random Llama and Qwen3 models by Hugging Face transformers (fp32, CPU), for the
decoder and the training step to be compared with: weights, logits, loss and all gradients of one batch, and of
documents one by one; losses and gradient norms of ten steps of torch.optim.AdamW, on a stream of tokens and on
documents one by one; and the config.json that transformers writes for the model.

Run where torch and transformers are installed (last run: torch 2.11.0, transformers 4.57.3):
    python3 scripts/golden/make_llama.py tests/model/golden
"""
import copy
import json
import pathlib
import sys
import tempfile

import torch
import transformers
from safetensors.torch import save_file

SHAPE = dict(vocab_size=61, hidden_size=24, intermediate_size=40, num_hidden_layers=2, num_attention_heads=4,
             max_position_embeddings=64, rms_norm_eps=1e-5, attention_bias=False, attn_implementation="eager")
BATCH, TOKENS, SEED, IGNORED = 2, 13, 7, -100
STEPS, ROWS, CONTEXT = 10, 4, 16
OPTIMIZER = dict(lr=3e-3, beta1=0.9, beta2=0.95, eps=1e-8, weight_decay=0.1, clip_norm=1.0)


def randomize(model):
    """Weights large enough that every part matters: scores and logits of order one, norms away from 1."""
    generator = torch.Generator().manual_seed(SEED)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(1 + 0.2 * noise if "norm" in name else 0.25 * noise)


def loss_sum(model, tokens, targets):
    logits = model(tokens).logits
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="sum",
                                             ignore_index=IGNORED)
    return loss, logits


def one_batch(model):
    generator = torch.Generator().manual_seed(SEED + 1)
    tokens = torch.randint(SHAPE["vocab_size"], (BATCH, TOKENS + 1), generator=generator)
    targets = tokens[:, 1:].clone()
    targets[0, 5] = targets[1, 0] = IGNORED
    tokens = tokens[:, :-1].contiguous()
    loss, logits = loss_sum(model, tokens, targets)
    loss.backward()
    tensors = {"tokens": tokens.int(), "targets": targets.int(), "logits": logits.detach(), "loss_sum": loss.detach()}
    for key, parameter in model.named_parameters():
        tensors["weight/" + key] = parameter.detach().clone()
        tensors["gradient/" + key] = parameter.grad.clone()
    return tensors


def training_data():
    """Ten steps of ROWS x CONTEXT tokens, learnable: the next token is mostly a function of the last. Boundaries cut
    each step into documents, of which none crosses a row; nothing is predicted across them."""
    generator = torch.Generator().manual_seed(SEED + 2)
    rule = torch.randperm(SHAPE["vocab_size"], generator=generator)
    tokens = torch.randint(SHAPE["vocab_size"], (STEPS, ROWS, CONTEXT + 1), generator=generator)
    for i in range(1, CONTEXT + 1):
        keep = torch.rand((STEPS, ROWS), generator=generator) < 0.8
        tokens[:, :, i] = torch.where(keep, rule[tokens[:, :, i - 1]], tokens[:, :, i])
    targets = tokens[:, :, 1:].clone()
    targets[torch.rand(targets.shape, generator=generator) < 0.1] = IGNORED
    cuts = []
    for _ in range(ROWS):
        cuts.append(sorted({0, CONTEXT, *torch.randint(1, CONTEXT, (2,), generator=generator).tolist()}))
    return tokens[:, :, :-1].contiguous(), targets, cuts


def pieces(tokens, targets, cuts):
    """The documents of one step, each a batch of its own; what crosses an end is not predicted."""
    for row, ends in enumerate(cuts):
        for begin, end in zip(ends, ends[1:]):
            wanted = targets[row:row + 1, begin:end].clone()
            wanted[0, -1] = IGNORED
            yield tokens[row:row + 1, begin:end], wanted


def documents_one_by_one(model):
    """The first of the ten steps: what packed documents must give, each of them computed by itself."""
    tokens, targets, cuts = training_data()
    model.zero_grad()
    logits, wanted, total = [], [], 0.0
    for document, document_targets in pieces(tokens[0], targets[0], cuts):
        loss, document_logits = loss_sum(model, document, document_targets)
        loss.backward()
        total += loss.detach()
        logits.append(document_logits.detach()[0])
        wanted.append(document_targets[0])
    tensors = {"packed/targets": torch.cat(wanted).view(ROWS, CONTEXT).int(), "packed/loss_sum": total,
               "packed/logits": torch.cat(logits).view(ROWS, CONTEXT, -1)}
    for key, parameter in model.named_parameters():
        tensors["packed/gradient/" + key] = parameter.grad.clone()
    return tensors


def optimizer_of(model):
    """Decay for matrices, embeddings among them, as optim.weight_decay's defaults say; none for norms."""
    groups = {True: [], False: []}
    for name, parameter in model.named_parameters():
        groups["norm" not in name].append(parameter)
    return torch.optim.AdamW(
        [{"params": groups[True], "weight_decay": OPTIMIZER["weight_decay"]}, {"params": groups[False], "weight_decay": 0.0}],
        lr=OPTIMIZER["lr"], betas=(OPTIMIZER["beta1"], OPTIMIZER["beta2"]), eps=OPTIMIZER["eps"], foreach=False)


def train(model, steps_of_batches):
    """Losses (mean over valid targets) and gradient norms (before clipping) of one AdamW step for each item."""
    optimizer = optimizer_of(model)
    losses, norms = [], []
    for batches in steps_of_batches:
        valid = sum(int((targets != IGNORED).sum()) for _, targets in batches)
        optimizer.zero_grad()
        total = 0.0
        for tokens, targets in batches:
            loss, _ = loss_sum(model, tokens, targets)
            (loss / valid).backward()
            total += loss.item()
        norms.append(torch.nn.utils.clip_grad_norm_(model.parameters(), OPTIMIZER["clip_norm"]).item())
        optimizer.step()
        losses.append(total / valid)
    return torch.tensor(losses, dtype=torch.float64), torch.tensor(norms, dtype=torch.float64)


def ten_steps(model):
    tokens, targets, cuts = training_data()
    whole = [[(tokens[i], targets[i])] for i in range(STEPS)]
    documents = [list(pieces(tokens[i], targets[i], cuts)) for i in range(STEPS)]
    stream = train(copy.deepcopy(model), whole)
    packed = train(copy.deepcopy(model), documents)
    boundaries = [row * CONTEXT + begin for row, ends in enumerate(cuts) for begin in ends[:-1]] + [ROWS * CONTEXT]
    return {"train/tokens": tokens.int(), "train/targets": targets.int(), "train/cu_seqlens": torch.tensor(boundaries).int(),
            "train/stream_losses": stream[0], "train/stream_norms": stream[1],
            "train/packed_losses": packed[0], "train/packed_norms": packed[1]}


def make(folder, name, model):
    randomize(model)
    tensors = one_batch(model) | documents_one_by_one(model) | ten_steps(model)
    save_file({k: v.contiguous() for k, v in tensors.items()}, folder / f"{name}.safetensors")
    config = model.config
    (folder / f"{name}.json").write_text(json.dumps(dict(
        vocab_size=config.vocab_size, width=config.hidden_size, mlp_width=config.intermediate_size,
        layers=config.num_hidden_layers, heads=config.num_attention_heads, kv_heads=config.num_key_value_heads,
        head_dim=config.head_dim, norm_eps=config.rms_norm_eps, rope_theta=config.rope_theta,
        tied_embeddings=config.tie_word_embeddings, qk_norm=name.startswith("qwen3"), optimizer=OPTIMIZER,
        made_by=f"transformers {transformers.__version__}, torch {torch.__version__}"), indent=1) + "\n")
    with tempfile.TemporaryDirectory() as saved:
        model.save_pretrained(saved)
        (folder / f"{name}.config.json").write_text((pathlib.Path(saved) / "config.json").read_text())
    print(name, "losses", [round(x, 4) for x in tensors["train/stream_losses"].tolist()])


def main():
    folder = pathlib.Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(SEED)
    llama, qwen3 = transformers.LlamaForCausalLM, transformers.Qwen3ForCausalLM
    # Grouped queries, a head of its own.
    make(folder, "llama", llama(transformers.LlamaConfig(
        **SHAPE, num_key_value_heads=2, rope_theta=10000.0, tie_word_embeddings=False)))
    # Every query head with its own keys, tied embeddings, another wavelength.
    make(folder, "llama_tied", llama(transformers.LlamaConfig(
        **SHAPE, num_key_value_heads=4, rope_theta=500000.0, tie_word_embeddings=True)))
    # QK-norm; head size apart from width / heads.
    make(folder, "qwen3", qwen3(transformers.Qwen3Config(
        **SHAPE, num_key_value_heads=2, rope_theta=10000.0, head_dim=8, tie_word_embeddings=True)))


main()

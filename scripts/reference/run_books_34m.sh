#!/usr/bin/env bash
# Proves the training step on one GPU: trains configs/books_34m.yaml with softmax and RoPE and with softmax and
# NAPE, lets compiled PyTorch train the same model from the same weights on the same data, and evaluates both of
# ours at 512 to 16384 tokens.
#
#   scripts/reference/run_books_34m.sh BIN_FOLDER DATA_FOLDER OUT_FOLDER [STEPS]
#
# BIN_FOLDER holds the asplash programs; DATA_FOLDER what `asplash-data pack` made of the books (train/, valid/,
# test/, tokenizer.model). Needs a GPU and a python3 with torch, numpy, PyYAML and safetensors.
set -euo pipefail
bin=${1:?usage: $0 BIN_FOLDER DATA_FOLDER OUT_FOLDER [STEPS]}
data=${2:?usage: $0 BIN_FOLDER DATA_FOLDER OUT_FOLDER [STEPS]}
out=${3:?usage: $0 BIN_FOLDER DATA_FOLDER OUT_FOLDER [STEPS]}
steps=${4:-200}
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
top=$(cd "$here/../.." && pwd)
mkdir -p "$out"

for kind in rope nape; do
  run=$out/books_34m_$kind
  "$bin/asplash-train" --config "$top/configs/books_34m.yaml" \
    --set "train.output=$run" --set "train.steps=$steps" --set "train.checkpoint_at_start=true" \
    --set "data.train=$data/train" --set "data.validation=$data/valid" \
    --set "model.positions.kind=$kind" > "$out/$kind.train.log" 2>&1 || { tail -5 "$out/$kind.train.log"; exit 1; }
  tail -3 "$out/$kind.train.log"
  python3 "$here/torch_reference.py" "$run" --out "$out/reference_$kind.jsonl" 2>&1 | grep -v -i warning
  "$bin/asplash-eval" --checkpoint "$run" --data "$data/test" \
    --context 512,1024,2048,4096,8192,16384 --json "$out/eval_$kind.json"
done

#!/usr/bin/env bash
# Holds the CUDA kernels of entmax attention against the reference implementation in training: configs/books_34m.yaml
# with 1.5-entmax and NAPE from the same weights on the same data, by both. How far equal programs stray is shown by
# the kernels with another micro-batch, which only sums in another order.
#
#   scripts/reference/run_entmax_34m.sh BIN_FOLDER DATA_FOLDER OUT_FOLDER [STEPS]
#
# BIN_FOLDER holds the asplash programs; DATA_FOLDER what `asplash-data pack` made of the books (train/, valid/,
# tokenizer.model). Needs a GPU; 200 steps of the reference take about two minutes on an H100. Exits with 1 if the
# mean losses of the last half differ by more than 0.02, what repeated runs of one program were seen to differ by
# (docs/benchmarks/training_34m.md).
set -euo pipefail
bin=${1:?usage: $0 BIN_FOLDER DATA_FOLDER OUT_FOLDER [STEPS]}
data=${2:?usage: $0 BIN_FOLDER DATA_FOLDER OUT_FOLDER [STEPS]}
out=${3:?usage: $0 BIN_FOLDER DATA_FOLDER OUT_FOLDER [STEPS]}
steps=${4:-200}
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
top=$(cd "$here/../.." && pwd)
mkdir -p "$out"

train() { # NAME IMPLEMENTATION MICRO_BATCH
  "$bin/asplash-train" --config "$top/configs/books_34m.yaml" --resume none --overwrite \
    --set "train.output=$out/$1" --set "train.steps=$steps" --set "train.micro_batch=$3" \
    --set "data.train=$data/train" --set "data.validation=$data/valid" \
    --set model.attention.function=entmax --set "model.attention.implementation=$2" \
    > "$out/$1.train.log" 2>&1 || { tail -5 "$out/$1.train.log"; exit 1; }
  grep -E '^(step|evaluation)' "$out/$1.train.log" | tail -2
}

train reference reference 8
train kernels auto 8
train kernels_other_sums auto 16
python3 "$here/compare_losses.py" "$out/reference" "$out/kernels" "$out/kernels_other_sums" --tolerance 0.02

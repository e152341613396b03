#!/usr/bin/env bash
# How much of the causal half entmax leaves active in trained models: trains configs/sparsity_34m.yaml with several
# kinds of positions, captures queries and keys of its checkpoints, counts, and writes tables, JSON and a plot for
# docs/sparsity.md.
#
#   scripts/sparsity/run.sh BIN_FOLDER DATA_FOLDER OUT_FOLDER
#
# BIN_FOLDER holds the asplash programs; DATA_FOLDER what `asplash-data pack` made of the books (train/, valid/,
# tokenizer.model; see configs/books_34m.yaml). A second call goes on where the first one was stopped. Needs a python3
# with torch (PYTHON chooses another). OUT_FOLDER receives report/ (what docs/sparsity.md shows), and of each model its
# run folder and NAME_STEP.safetensors, of which only the last step's stays (KEEP=1: all; 400 MB each as it stands).
#
# Environment, with what is taken where it is not set:
#   STEPS=200                        training steps of 65,536 tokens
#   EVERY=STEPS/4                    steps between the checkpoints that are looked into, step 0 and the last one apart
#   MODELS="nape rope asentmax"      of nape, rope, nope, alibi, asentmax (NAPE with ASEntmax's temperature on its NoPE heads)
#   CONTEXTS=2048,4096,8192,16384    tokens counted; the last one is captured
#   WINDOWS=1                        captured windows of that many tokens
#   LAYERS=                          captured layers (all)
#   BUDGET=300                       seconds for everything. Training may use 60 % of it, and stops with a checkpoint
#                                    there; captures that would come too late are left out and named
#   CONFIG=configs/sparsity_34m.yaml
#   SETTINGS=                        more key=value for asplash-train, separated by spaces
set -euo pipefail
usage="usage: $0 BIN_FOLDER DATA_FOLDER OUT_FOLDER"
bin=${1:?$usage}
data=${2:?$usage}
out=${3:?$usage}
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
STEPS=${STEPS:-200}
EVERY=${EVERY:-$((STEPS >= 4 ? STEPS / 4 : 1))}
MODELS=${MODELS:-nape rope asentmax}
CONTEXTS=${CONTEXTS:-2048,4096,8192,16384}
WINDOWS=${WINDOWS:-1}
LAYERS=${LAYERS:-}
BUDGET=${BUDGET:-300}
CONFIG=${CONFIG:-$here/../../configs/sparsity_34m.yaml}
SETTINGS=${SETTINGS:-}
KEEP=${KEEP:-0}
PYTHON=${PYTHON:-python3}
mkdir -p "$out"
STEPS_LOGS=$out/logs
# shellcheck source=scripts/lib/steps.sh
. "$here/../lib/steps.sh"

read -ra models <<<"$MODELS"
read -ra settings <<<"$SETTINGS"
longest=${CONTEXTS##*,}
"$PYTHON" -c 'import torch' 2>/dev/null || die "$PYTHON has no torch" "set PYTHON to one that has"

# settings_of MODEL: one key=value a line.
settings_of() {
  case $1 in
    nape | rope | nope | alibi) echo "model.positions.kind=$1" ;;
    asentmax) printf '%s\n' model.positions.kind=nape model.attention.adaptive_temperature=true ;;
    *) return 1 ;;
  esac
}

# train MODEL SECONDS: ends early with a checkpoint and status 0 where the time is over.
train() {
  local model=$1 arguments=() setting
  for setting in "${settings[@]}" $(settings_of "$model") \
    "train.output=$out/$model" "train.steps=$STEPS" "train.checkpoint_every=$EVERY" \
    "data.train=$data/train" "data.validation=$data/valid"; do
    arguments+=(--set "$setting")
  done
  step "train $model: $STEPS steps, $2 s at most"
  logged "train-$model" timeout --preserve-status --signal=INT "$2" \
    "$bin/asplash-train" --config "$CONFIG" "${arguments[@]}"
}

# capture MODEL STEP
capture() {
  logged "capture-$1-$2" "$bin/asplash-eval" --checkpoint "$out/$1/checkpoints/$2" --data "$data/valid" \
    --capture "$out/$1_$2.safetensors" --capture-context "$longest" --capture-windows "$WINDOWS" ${LAYERS:+--capture-layers "$LAYERS"}
}

# checkpoints MODEL: their names, newest first.
checkpoints() {
  local folder
  for folder in "$out/$1"/checkpoints/step_????????; do
    [ ! -d "$folder" ] || basename "$folder"
  done | sort -r
}

for model in "${models[@]}"; do
  settings_of "$model" >/dev/null || die "MODELS: '$model': must be of nape, rope, nope, alibi, asentmax"
done

declare -A newest
for model in "${models[@]}"; do
  train "$model" $((BUDGET * 6 / 10 / ${#models[@]}))
  newest[$model]=$(checkpoints "$model" | head -n 1)
  [ -n "${newest[$model]}" ] || die "training of $model left no checkpoint" "see $STEPS_LOGS/train-$model.log"
  [ "${newest[$model]}" = "$(printf 'step_%08d' "$STEPS")" ] ||
    warn "$model stopped at ${newest[$model]} of $STEPS steps: its time was over"
done

# The last step of every model first, then the one before it: what is left out at the end is missed least.
step "capture $longest tokens"
mapfile -t wanted < <(for model in "${models[@]}"; do
  checkpoints "$model" | awk -v model="$model" '{ print NR, model, $1 }'
done | sort -s -n -k 1,1 | cut -d ' ' -f 2-)
captured=()
captures_begin=$SECONDS
slowest=0
for one in "${wanted[@]}"; do
  read -r model checkpoint <<<"$one"
  begin=$SECONDS
  counting=$((begin - captures_begin))  # takes less time than capturing did
  if [ ${#captured[@]} -ge ${#models[@]} ] && [ $((begin + slowest + counting)) -gt "$BUDGET" ]; then
    warn "left out, no time: $model $checkpoint"
    continue
  fi
  capture "$model" "$checkpoint"
  captured+=("$out/${model}_$checkpoint.safetensors")
  [ $((SECONDS - begin)) -le "$slowest" ] || slowest=$((SECONDS - begin))
done
say "captured ${#captured[@]} checkpoints"

step "count"
logged count "$PYTHON" "$here/report.py" "${captured[@]}" --out "$out/report" --contexts "$CONTEXTS"
cat "$STEPS_LOG"

if [ "$KEEP" != 1 ]; then
  for file in "${captured[@]}"; do
    name=$(basename "$file" .safetensors)
    model=${name%_step_*}
    [ "$name" = "${model}_${newest[$model]}" ] || rm -f "$file"
  done
fi
say "done; see $out/report/sparsity.md"

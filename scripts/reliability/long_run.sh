#!/usr/bin/env bash
# Trains a tiny decoder for 20,000 steps on the CPU and judges what only shows after long: memory must not grow
# after step 500, speed must hold, train.log must stay bounded, metrics.jsonl must have each step once, and a pipe
# must get plain lines. The run evaluates and saves every 250 steps, so that all it does has happened by step 500.
#
#   scripts/reliability/long_run.sh [STEPS]          two to ten minutes on two CPU cores
#
# CTest runs the same with fewer steps (test `long_run`).
# Environment: ASPLASH_BUILD (default: build/release, built before by scripts/test.sh); KEEP=FOLDER keeps run,
# output and memory samples there.
set -euo pipefail

case ${1:-} in
  -h | --help) sed -n '2,/^set /{/^#/s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}"; exit 0 ;;
esac
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
bin=$(realpath "${ASPLASH_BUILD:-$root/build/release}")/bin
steps=${1:-20000}
[[ $steps =~ ^[1-9][0-9]{3,}$ ]] || { echo "error: STEPS must be a number of at least 1000, not '$steps'" >&2; exit 2; }
for program in asplash-data asplash-train; do
  [ -x "$bin/$program" ] || { echo "error: there is no $bin/$program: run scripts/test.sh before" >&2; exit 1; }
done
if [ -n "${KEEP:-}" ]; then
  mkdir -p "$KEEP"
  folder=$(realpath "$KEEP")
else
  folder=$(mktemp -d)
  trap 'rm -rf "$folder"' EXIT
fi
cd "$folder"

corpus=$root/data/samples/kjv.jsonl
quiet() { "$@" >prepare.log 2>&1 || { cat prepare.log >&2; exit 1; }; }
quiet "$bin/asplash-data" tokenizer --input "$corpus" --vocab-size 320 --output tokenizer.model
quiet "$bin/asplash-data" pack --tokenizer tokenizer.model --input "$corpus" --output data --split valid=0.1 --overwrite
cat >config.yaml <<YAML
train: {output: run, steps: $steps, tokens_per_step: 256, micro_batch: 4, device: cpu, threads: 1,
        evaluate_every: 250, evaluate_tokens: 1024, checkpoint_every: 250, log_mebibytes: 1}
data: {train: data/train, validation: data/valid, documents: packed, context: 32}
model: {width: 32, layers: 2, heads: 2, mlp_width: 64, positions: {kind: nape}, attention: {function: entmax}}
optim: {lr: 0.003, warmup_steps: 100}
YAML
rm -rf run
# Threads that spin while they wait take the cores from each other.
OMP_WAIT_POLICY=passive python3 "$root/scripts/reliability/watch_run.py" "$steps" "$bin/asplash-train" --config config.yaml

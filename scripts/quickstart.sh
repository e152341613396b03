#!/usr/bin/env bash
# From a fresh machine to a trained language model with entmax attention: sets everything up, builds, takes the
# King James Bible (Debian package bible-kjv, public domain), trains a tokenizer and a small decoder (about three
# minutes on two CPU cores; on a GPU if there is one), evaluates it on books it has not seen, lets it write.
#
#   scripts/quickstart.sh [--fresh] [--steps N]
#
#   --fresh      start over: forget data/quickstart and the run folder (a second run keeps what is done)
#   --steps N    train N steps instead of the number in configs/quickstart.yaml, in a run folder of its own,
#                runs/quickstart_N
#
# Environment: see scripts/lib/setup.sh (Torch_DIR, CUDACXX, ASPLASH_CUDA=OFF, ASPLASH_JOBS, VERBOSE=1).
set -euo pipefail
# shellcheck source=scripts/lib/setup.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib/setup.sh"

readonly DATA=data/quickstart CONFIG=configs/quickstart.yaml
readonly VALID_BOOKS='Ruth|Esther|Daniel|Acts|James'  # 6 % of the text; none repeats another book at length
readonly VOCAB_SIZE=2048
readonly CONTEXTS=64,128,256,512,1024,2048
readonly PROMPT='And it came to pass in those days, that'

usage() { sed -n '2,/^set /{/^#/s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}"; }

fresh=0
steps=
while [ $# -gt 0 ]; do
  case $1 in
    --fresh) fresh=1 ;;
    --steps)
      steps=${2:-}
      [[ $steps =~ ^[1-9][0-9]*$ ]] || die "--steps needs a positive number, not '$steps'"
      shift
      ;;
    -h | --help) usage; exit 0 ;;
    *) usage >&2; die "unknown argument: $1" ;;
  esac
  shift
done
readonly RUN=runs/quickstart${steps:+_$steps}

# once NAME FOLDER OUTPUT COMMAND...: runs the command unless OUTPUT is there and FOLDER/.done-NAME says that the same
# command was carried out before, after the same stages before it.
chain=
once() {
  local name=$1 stamp=$2/.done-$1 output=$3
  shift 3
  chain=$(printf '%s\n%s\n' "$chain" "$*" | cksum)
  if [ -e "$output" ] && [ "$(cat "$stamp" 2>/dev/null)" = "$chain" ]; then
    say "$name: done before"
    return
  fi
  "$@"
  printf '%s\n' "$chain" >"$stamp"
}

make_corpus() {
  step "corpus: the King James Bible by books, held out: ${1//|/, }"
  command -v bible >/dev/null || die "there is no program 'bible' (Debian package bible-kjv)"
  bible -f gen1:1-rev22:21 </dev/null |
    awk -v train="$DATA/corpus/train.jsonl" -v valid="$DATA/corpus/valid.jsonl" -v valid_books="$1" \
      -f scripts/lib/kjv_to_jsonl.awk
}

train_tokenizer() {
  step "tokenizer: SentencePiece, $1 pieces"
  logged tokenizer "$BIN/asplash-data" tokenizer --input $DATA/corpus/train.jsonl --vocab-size "$1" --model bpe \
    --output $DATA/corpus/tokenizer.model
}

pack() {
  local split
  for split in train valid; do
    step "pack: $split"
    logged "pack-$split" "$BIN/asplash-data" pack --tokenizer $DATA/corpus/tokenizer.model \
      --input $DATA/corpus/$split.jsonl --output $DATA --name $split --overwrite
  done
  "$BIN/asplash-data" inspect $DATA
}

# An interrupted training goes on. A model of other settings or other data is nobody's to delete but the user's.
train() {
  step "train: asplash-train --config $CONFIG (Ctrl-C stops it with a checkpoint; the next run goes on)"
  if [ -e "$RUN/checkpoints" ] && [ "$(cat "$RUN/.begun" 2>/dev/null)" != "$chain" ]; then
    die "$RUN holds a run of other settings or other data" \
      "keep it: move it away, or train beside it (--steps N)" "start over without it: $0 --fresh${steps:+ --steps $steps}"
  fi
  mkdir -p "$RUN"
  printf '%s\n' "$chain" >"$RUN/.begun"
  "$BIN/asplash-train" --config $CONFIG --set "train.output=$RUN" ${steps:+--set "train.steps=$steps"}
  # A signal ends training early with a checkpoint and status 0.
  local last
  last=$(awk '/^  steps:/ { printf "step_%08d", $2 }' "$RUN/config.yaml")
  [ -e "$RUN/checkpoints/$last" ] || die "training was stopped before $last; run this again to go on"
}

evaluate() {
  step "evaluate: perplexity on the held-out books by context length"
  "$BIN/asplash-eval" --checkpoint "$RUN" --data $DATA/valid --context "$1" --json "$RUN/evaluation.json"
}

generate() {
  step "generate: the model continues '$1'"
  printf '\n'
  "$BIN/asplash-generate" --checkpoint "$RUN" --prompt "$1" --max-tokens 150 --temperature 0.8 --top-p 0.95 --seed 1
  printf '\n'
}

# The model must predict far better than the frequencies of the tokens do: half of their perplexity is a bit a token.
check_perplexity() {
  python3 - "$RUN/evaluation.json" <<'PYTHON'
import json, sys

report = json.load(open(sys.argv[1]))
trained = [r for r in report["results"] if not r["beyond_trained"]]
best = max(trained, key=lambda r: r["context"])
unigram = report["unigram_perplexity"]
print(f"held-out perplexity at context {best['context']}: {best['perplexity']:.1f}; "
      f"a unigram model reaches {unigram:.1f}")
sys.exit(0 if best["perplexity"] < unigram / 2 else 1)
PYTHON
}

setup bible-kjv
BIN=$ASPLASH_BUILD/bin
cd "$ASPLASH_ROOT"
build programs

[ $fresh = 0 ] || rm -rf "$DATA" "$RUN"
mkdir -p $DATA/corpus
once corpus $DATA $DATA/corpus/valid.jsonl make_corpus "$VALID_BOOKS"
once tokenizer $DATA $DATA/corpus/tokenizer.model train_tokenizer $VOCAB_SIZE
once pack $DATA $DATA/valid/manifest.json pack
chain+=$(cksum <$CONFIG)$steps
once train "$RUN" "$RUN/checkpoints" train
once evaluation "$RUN" "$RUN/evaluation.json" evaluate $CONTEXTS
generate "$PROMPT"

step "check: perplexity below half of a unigram model's"
check_perplexity || die "the perplexity is not below half of the unigram model's" \
  "train longer (--steps N), or see $ASPLASH_ROOT/$RUN/train.log"
printf '\nDone in %d s. Where everything lies, in %s:\n' "$SECONDS" "$ASPLASH_ROOT"
printf '  %-32s %s\n' \
  "$DATA/corpus/" "the text (JSON Lines) and the tokenizer" \
  "$DATA/{train,valid}/" "the packed tokens" \
  "$RUN/checkpoints/" "the model (safetensors) and all that is needed to go on" \
  "$RUN/metrics.jsonl" "loss, norm, rate, ... of each step" \
  "$RUN/evaluation.json" "perplexity by context length" \
  "${BIN#"$ASPLASH_ROOT"/}/" "the programs: asplash-data, -train, -eval, -generate (each has --help)"

# shellcheck shell=sh
# What every case of the table starts from: a corpus, a tokenizer, packed splits, a configuration, a run of two
# steps, and hf, a model as transformers keeps it. Read by bad_input_test.cpp in an empty folder, after prelude.sh.
cp "$ASPLASH_SAMPLES/kjv.jsonl" corpus.jsonl
cat >config.yaml <<'END'
train:
  output: new
  steps: 2
  tokens_per_step: 512
  evaluate_tokens: 512
  device: cpu
  threads: 1
data:
  train: packed/train
  validation: packed/valid
  context: 64
model:
  width: 32
  layers: 2
  heads: 4
  positions:
    kind: nape
  attention:
    function: entmax
optim:
  lr: 1.0e-3
  warmup_steps: 1
END
asplash-data tokenizer --input corpus.jsonl --vocab-size 400 --output tokenizer.model
asplash-data pack --tokenizer tokenizer.model --input corpus.jsonl --output packed --split valid=0.15
asplash-train --config config.yaml --set train.output=run
mv run/checkpoints/step_00000002 checkpoint
mkdir -p run/checkpoints
cp -r checkpoint run/checkpoints/step_00000002
asplash-train --config config.yaml --set train.output=llama --set train.steps=1 --set data.validation= \
  --set model.attention.function=softmax --set model.positions.kind=rope
asplash-convert to-hf --checkpoint llama --output hf

#!/usr/bin/env bash
# Trains zoo/R on a machine with a graphics card and without a network: docs/zoo-r.md, "On a card".
# Usage: train_on_card.sh KIT OUT MINUTES [options of `python -m illava_lab.real train`]
# KIT holds the numbered folders of `carry` and a folder .whl of wheels. OUT gets the weights and the log.
# Called again on the same machine, without --fresh, it goes on with the training.
set -eu
kit=$1 out=$2 minutes=$3
shift 3
cd "$(dirname "$0")/../.."
python3 -m pip install --quiet --no-index --no-deps --no-compile --upgrade --target "$kit/site" "$kit"/.whl/*.whl
export PYTHONPATH=$kit/site:$PWD/src:$PWD/lab HF_HUB_OFFLINE=1 PYTHONUNBUFFERED=1
df -h /dev/shm || true # where the processes that draw pictures hand them over
# The last folder that uncarry makes: the others may be those of a call that did not end.
test -d "$kit/parts/data" || python3 -m illava_lab.real uncarry "$kit"/[0-9]* --to "$kit/parts"
# A run that hangs must not take the results along: it is saved every two minutes.
status=0
timeout --signal=INT "$((minutes * 60 + 60))" python3 -m illava_lab.real train \
  --budget "$minutes" --recipe card --workers 12 --device cuda --every 1000 --scenes 12 \
  --encoder "$kit/parts/encoder" --llm "$kit/parts/llm" --data "$kit/parts/data" --output "$kit/run" "$@" ||
  status=$?
for file in encoder.pt reading.pt trained.safetensors log.jsonl; do
  test ! -f "$kit/run/$file" || cp "$kit/run/$file" "$out/"
done
exit "$status"

#!/usr/bin/env bash
# All that a machine with a CUDA GPU is asked for, in one call of less than ten minutes: the CUDA tests,
# then the benchmarks, then the training of the demo's Explainer.  Results go to $OUT
# (default: benchmarks/out); copy the figures, with date and card, into benchmarks/RESULTS.md.
#
#   benchmarks/gpu.sh        in an environment with wyr and its test extra installed
set -uo pipefail
cd "$(dirname "$0")/.."
out=${OUT:-benchmarks/out}
mkdir -p "$out"
export PYTHONPATH=$PWD PYTHONUNBUFFERED=1
status=0

nvidia-smi --query-gpu=name,memory.total,driver_version --format=csv | tee "$out/card.csv" || exit 1
timeout 120 python -m pytest -q -m gpu tests 2>&1 | tee "$out/tests.log" || status=1
# The aim at NT-50M size: 15,000 reads/s, half of the measured bf16 peak.  With and without compiled layers.
timeout 120 python benchmarks/explain.py --device cuda --size 50m --batch 256 --reads 8192 --rounds 3 \
  --no-peers --no-outputs --memory-reads 0 2>&1 | tee "$out/explain-50m.log" || status=1
timeout 120 python benchmarks/explain.py --device cuda --size 50m --batch 256 --reads 8192 --rounds 3 \
  --compile --no-outputs --memory-reads 0 2>&1 | tee "$out/explain-50m-compiled.log" || status=1
timeout 60 python benchmarks/explain.py --device cuda --size demo --batch 512 --reads 8192 --rounds 3 \
  --no-peers --memory-reads 0 2>&1 | tee "$out/explain-demo.log" || status=1

timeout 90 python benchmarks/train.py --device cuda --size 50m --batch 64 --rounds 2 \
  2>&1 | tee "$out/train-50m.log" || status=1

# Training speed, and whether bf16 on CUDA reaches what the CPU reached.
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cp -r wyrcli/models/demo "$work/model"
wyr() { python -m wyrcli "$@"; }
wyr simulate "$work/sim" --seed 2 --reads 60000 &&
  wyr prepare "$work/sim/reads.fasta" --labels "$work/sim/labels.tsv" --taxonomy "$work/sim/taxdump" \
    --validation 0.01 --test 0.01 -o "$work/data" &&
  time timeout 120 python -m wyrcli train-explainer "$work/model" --data "$work/data" --steps 450 --seed 3 \
    --half --force --device cuda 2>&1 | tee "$out/train-state.log" &&
  wyr evaluate --table --model "$work/model" --device cuda 2>&1 | tee "$out/table.log" || status=1
exit $status

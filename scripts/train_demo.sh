#!/usr/bin/env bash
# Trains the demo model that is installed with wyr, by wyr commands only.
#
#   scripts/train_demo.sh OUTDIR      then copy OUTDIR/demo to wyrcli/models/demo
#
# Its steps, run one by one, took about an hour on two cores with bf16 instructions.  Seeds are fixed;
# bf16 sums may still differ in the last digits from machine to machine.
set -euo pipefail
here=$(cd "$(dirname "$0")/.." && pwd)
out=${1:?usage: scripts/train_demo.sh OUTDIR}
mkdir -p "$out"
cd "$out"

# Short reads first: motifs fill more of them, so the classifier finds them sooner.
wyr simulate short --seed 1 --reads 60000 --length 600 --max-copies 2
wyr simulate full --seed 2 --reads 60000
for set in short full; do
  wyr prepare "$set/reads.fasta" --labels "$set/labels.tsv" --taxonomy "$set/taxdump" \
    --window "$(awk 'NR == 2 {print length($0); exit}' "$set/reads.fasta")" \
    --validation 0.01 --test 0.01 -o "$set.data"
done

wyr finetune short.data --config "$here/data/demo_config.json" --embeddings composed \
  --steps 900 --batch-size 128 --learning-rate 1e-3 --warmup 0.05 --seed 1 -o first
wyr finetune full.data --from first \
  --steps 500 --batch-size 64 --learning-rate 5e-4 --warmup 0.05 --seed 2 -o demo --half --held-out 500 \
  --name demo \
  --notice "demo model: it knows 16 invented genera from simulated reads, and nothing of real organisms; use --model for your own"

# The Explainers.  Refining teaches one reading frame what the mean over six says.
wyr train-explainer demo --data full.data --preset compact --steps 300 --seed 3 --half
wyr train-explainer demo --data full.data --refine --steps 400 --seed 13 --half
wyr train-explainer demo --data full.data --operator scale --steps 150 --seed 3 --half
# The LSTM sees no hidden states and needs more steps: most of them on short reads.
wyr train-explainer demo --data short.data --explainer lstm --embeddings composed --entropy 0.3 \
  --target-area 6 --max-area 0.30 --steps 800 --seed 4 --half
wyr train-explainer demo --data short.data --explainer lstm --continue --entropy 0.3 \
  --target-area 5 --max-area 0.30 --steps 2500 --seed 5 --half
wyr train-explainer demo --data full.data --explainer lstm --continue --learning-rate 1e-3 --steps 250 \
  --seed 6 --half

#!/usr/bin/env bash
# Trains the model of real taxa that is installed with wyr, by wyr commands only (and awk for lists of files).
#
#   scripts/train_default_model.sh GENOMES OUTDIR      then copy OUTDIR/genomes to wyrcli/models/genomes
#
# GENOMES holds genomes.tsv, sequences/*.fna.gz and taxdump/.  Can be stopped at any time and started again: what
# is complete is kept, and trainings go on where they were.  Times are in docs/model-card.md.  Seeds are fixed;
# bf16 sums differ in the last digits from machine to machine.
set -euo pipefail
here=$(cd "$(dirname "$0")/.." && pwd)
genomes=$(cd "${1:?usage: scripts/train_default_model.sh GENOMES OUTDIR}" && pwd)
out=${2:?usage: scripts/train_default_model.sh GENOMES OUTDIR}
mkdir -p "$out"
cd "$out"

# Lists of files.  Organelles are left out, and so are some genera and phyla that the model shall never see:
# single genomes, which could not be split, of phyla with other genera; and four whole phyla.  Isolates of
# one viral taxon are one genome: many differ in a few bases.
unseen="Pyrobaculum Gordonia Propionibacterium Brochothrix Priestia Planktothrix Mycoplasmopsis Aggregatibacter
  Burkholderia Caulobacter Edwardsiella Myxococcus Rhodovulum Wigglesworthia Canis Pan Paslahepevirus Lyssavirus
  Orthonairovirus Blohavirus"
strange="Thermus Cyanidioschyzon Nanohalobium Sinsheimervirus"
awk -F'\t' -v folder="$genomes/sequences/" -v unseen="$unseen" -v strange="$strange" '
  BEGIN { split(unseen, u, /[ \n]+/); for (i in u) kind[u[i]] = "unseen"
          split(strange, s, / /); for (i in s) kind[s[i]] = "strange"; print "file\ttaxid\tgenome" > "labels.tsv" }
  NR == 1 { for (i = 1; i <= NF; i++) c[$i] = i; next }
  { genus = $c["genus"]; sub(/^Candidatus /, "", genus)
    print $c["file"] "\t" $c["taxid"] "\t" \
      ($c["superkingdom"] == "Viruses" ? $c["taxid"] : $c["organism"]) > "labels.tsv"
    list = ($c["replicon"] ~ /mitochondrion|plastid/) ? "organelles" : (genus in kind) ? kind[genus] : "known"
    print folder $c["file"] > (list ".list") }' "$genomes/genomes.tsv"

make_dataset() {  # NAME LIST OPTIONS...
  local name=$1 list=$2; shift 2
  [ -e "$name" ] || wyr prepare $(cat "$list.list") --labels labels.tsv --taxonomy "$genomes/taxdump" "$@" -o "$name"
}
make_dataset known known --split genome --test 0.2 --validation 0.06 --seed 1 --per-taxon 1200
for name in unseen strange organelles; do
  make_dataset "$name" "$name" --split genome --test 1 --validation 0 --per-taxon 60
done

# The classifier: k-mer counts of all reading frames, then a layer that reads the k-mers across the borders of tokens
# (docs/training.md).  Ten minutes each on one core.
common=(--dropout 0.4 --label-smoothing 0.1 --balanced --reverse-complement --shortest 700 --warmup 0.02 --examined 1500 --seed 1
  --resume)
wyr finetune known --config "$here/data/real_config.json" --counts --every-frame "${common[@]}" \
  --batch-size 512 --learning-rate 2e-3 --steps 3000 --validate-every 1000 -o counts
wyr finetune known --from counts --borders "${common[@]}" --metric loss \
  --batch-size 384 --learning-rate 1e-3 --steps 2000 --validate-every 500 --half --name genomes --notice "trained on 252 genomes; of 1,500 bp of new ones \
it names 95 % of superkingdoms, 83 % of phyla and 62 % of genera rightly (docs/model-card.md)" -o genomes

# The Explainer: the mean gradients of the classifier.  Four steps, because training it further by the same gradients or
# by the loss for some minutes made it keep more, not know more (docs/experiments.md).
wyr train-explainer genomes --data known --balanced --reverse-complement --evidence 0.18 --smoothed 9 --width 128 \
  --learning-rate 1e-4 --steps 4 --batch-size 32 --validate-every 4 --seed 3 --half --resume

# What there is to say of both.
wyr evaluate --classifier --calibrate --model genomes --data known --unknown unseen --unknown strange --unknown organelles \
  --markdown classifier.md --json classifier.json
wyr evaluate --table --model genomes --data known --reads 600 --markdown table.md
wyr evaluate --full --model genomes --data known --reads 250 --peer-reads 6 --markdown study.md
wyr enrichment --model genomes --data known --windows 1500 --markdown enrichment.md

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

# The classifier: k-mer counts (docs/training.md).  Finetuning it as a transformer for 50 minutes of one core with one
# layer more brought nothing on genomes that it had not seen, and so is left out.
wyr finetune known --config "$here/data/real_config.json" --counts --dropout 0.3 --balanced --reverse-complement \
  --shortest 300 --batch-size 512 --learning-rate 2e-3 --warmup 0.02 --steps 4000 --validate-every 4000 \
  --examined 1500 --seed 1 --half --resume --name genomes --notice "preview of a model of real taxa: 171 genera from \
252 genomes; what it gets right and wrong is in docs/model-card.md" -o genomes

# The Explainer, and what there is to say of both.
wyr train-explainer genomes --data known --balanced --reverse-complement --preset balanced --target-area 2 \
  --max-area 0.35 --steps 250 --batch-size 48 --validate-every 250 --seed 3 --half --resume
wyr evaluate --classifier --calibrate --model genomes --data known --unknown unseen --unknown strange --unknown organelles \
  --markdown classifier.md --json classifier.json
wyr evaluate --full --model genomes --data known --reads 1000 --peer-reads 20 --markdown study.md --html study.html
wyr enrichment --model genomes --data known --windows 1500 --markdown enrichment.md

#!/usr/bin/env bash
# Embertune's side of the comparison, after st_all.sh: three seeds of both models, and metrics of both sides' folders.
#
#     bench/quality/embertune_all.sh DATA MODELS OUT
#
# Writes OUT/embertune-<precision>/<model>-<seed> (trained folders with log.jsonl and run.json) and eval-<label>.json beside them.
# PRECISION=fp32 (default) or bf16. Keeps what is already there.
set -euo pipefail
[ $# -eq 3 ] || { echo "usage: $0 DATA MODELS OUT" >&2; exit 2; }
data=$1 models=$2 out=$3 precision=${PRECISION:-fp32}
embertune=$(cd "$(dirname "$0")/../.." && pwd)/target/release/embertune
ours=$out/embertune-$precision
mkdir -p "$ours"

# evaluate POOL FOLDER LABEL
evaluate() {
    [ -s "$ours/eval-$3.json" ] ||
        "$embertune" evaluate --model_name "$2" --index_file_jsonl_path "$1" --query_file_jsonl_path "$data/test.jsonl" \
            --cutoffs 1,10 --json --precision "$precision" >"$ours/eval-$3.json"
}

# one_model NAME FOLDER BATCH POOL
one_model() {
    local pool=$out/$1/pool-$4.jsonl
    evaluate "$pool" "$models/$2" "$1-base"
    for seed in 1 2 3; do
        [ -e "$ours/$1-$seed" ] ||
            "$embertune" train --model_name_or_path "$models/$2" --train_data "$out/$1/train-$seed.jsonl" \
                --output_dir "$ours/$1-$seed" --precision "$precision" --learning_rate 2e-5 --num_train_epochs 1 \
                --per_device_train_batch_size "$3" --dataloader_drop_last True --train_sampling_strategy sequential \
                --train_group_size 2 --temperature 0.02 --query_max_len 64 --passage_max_len 256 --warmup_ratio 0.1 \
                --dropout 0 --logging_steps 1 --save_steps 0 --seed "$seed"
        evaluate "$pool" "$ours/$1-$seed" "$1-$seed"
        evaluate "$pool" "$out/st/$1-$seed" "st-$1-$seed"
    done
}

one_model minilm all-MiniLM-L6-v2 32 5000
one_model mpnet all-mpnet-base-v2 16 2000

#!/usr/bin/env bash
# What planted false negatives do to a training: trained.sh DATA MODEL OUT [EMBERTUNE]
# Plants, mines with the defaults of three rules, trains with each file (same steps, two seeds), and evaluates on held-out queries and a pool
# without plants. DATA: a folder with train.jsonl, test.jsonl and corpus.jsonl; MODEL: a model folder. What is in OUT already is not made
# again. ROWS, POOL: size of the training set; LENGTH: tokens that are read of a passage; RATE: learning rate; SEEDS.
set -euo pipefail
data=$1 model=$2 out=$3 embertune=${4:-target/release/embertune}
rows=${ROWS:-300} pool=${POOL:-2000} length=${LENGTH:-64} rate=${RATE:-1e-4} seeds=${SEEDS:-1 2}
here=$(dirname "$0")
rules="original sentence-transformers nv-retriever"
mkdir -p "$out"
[ -f "$out/pool.jsonl" ] || python3 "$here/plant.py" make "$data" "$out" --rows "$rows" --pool "$pool"
[ -f "$out/test_pool.jsonl" ] || python3 "$here/plant.py" held_out "$data" "$out" --pool 1500
for rule in $rules; do
    [ -f "$out/default.$rule.jsonl" ] || "$embertune" mine --model_name_or_path "$model" --max_seq_length "$length" --vector_cache "$out/vectors" \
        --input_file "$out/train.jsonl" --candidate_pool "$out/pool.jsonl" --preset "$rule" --output_file "$out/default.$rule.jsonl"
done
python3 "$here/plant.py" count "$out" $(for rule in $rules; do echo "$out/default.$rule.jsonl"; done)
evaluate() {
    [ -f "$out/$1.results.json" ] || "$embertune" evaluate --model_name "$2" --max_seq_length "$length" --index_file_jsonl_path "$out/test_pool.jsonl" \
        --query_file_jsonl_path "$out/test.jsonl" --output "$out/$1.results.json" --json > "$out/$1.json"
}
evaluate base "$model"
for seed in $seeds; do
    for rule in $rules; do
        name=$rule.$seed
        [ -d "$out/model.$name" ] || "$embertune" train --model_name_or_path "$model" --train_data "$out/default.$rule.jsonl" \
            --output_dir "$out/model.$name" --learning_rate "$rate" --num_train_epochs 1 --per_device_train_batch_size 8 \
            --train_group_size 3 --query_max_len 64 --passage_max_len "$length" --save_strategy no --seed "$seed"
        evaluate "$name" "$out/model.$name"
        "$embertune" compare "$out/base.results.json" "$out/$name.results.json" || true
    done
done

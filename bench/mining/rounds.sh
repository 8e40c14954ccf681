#!/usr/bin/env bash
# Mining once against mining again after every epoch: rounds.sh DATA MODEL OUT [EMBERTUNE]
# Mines with the preset nv-retriever, trains with these negatives and with --remine_every epoch (same steps, same rate), and compares both with
# the base model and with each other on held-out queries. DATA: a folder with train.jsonl, test.jsonl and corpus.jsonl; MODEL: a model
# folder. What is in OUT already is not made again. ROWS, POOL: size of the training set; LENGTH: tokens that are read of a passage;
# RATE: learning rate; EPOCHS; SEEDS.
set -euo pipefail
data=$1 model=$2 out=$3 embertune=${4:-target/release/embertune}
rows=${ROWS:-500} pool=${POOL:-2000} length=${LENGTH:-64} rate=${RATE:-5e-5} epochs=${EPOCHS:-4} seeds=${SEEDS:-1 2 3}
mkdir -p "$out"
[ -f "$out/test_pool.jsonl" ] || python3 "$(dirname "$0")/plant.py" held_out "$data" "$out" --pool 1500
[ -f "$out/train.jsonl" ] || { shuf -n "$rows" --random-source="$data/train.jsonl" "$data/train.jsonl" > "$out/train.jsonl"; }
[ -f "$out/pool.jsonl" ] || python3 - "$data/corpus.jsonl" "$out" "$pool" <<'P'
import json, random, sys
corpus, out, n = sys.argv[1], sys.argv[2], int(sys.argv[3])
texts = list(dict.fromkeys(text for line in open(f"{out}/train.jsonl") for text in json.loads(line)["pos"]))
rest = [text for text in (json.loads(line)["text"] for line in open(corpus)) if text not in set(texts)]
random.Random(7).shuffle(rest)
with open(f"{out}/pool.jsonl", "w") as file:
    file.writelines(json.dumps({"text": text}) + "\n" for text in texts + rest[: max(0, n - len(texts))])
P
[ -f "$out/mined.jsonl" ] || "$embertune" mine --model_name_or_path "$model" --max_seq_length "$length" --input_file "$out/train.jsonl" \
    --candidate_pool "$out/pool.jsonl" --preset nv-retriever --output_file "$out/mined.jsonl"
evaluate() {
    [ -f "$out/$1.results.json" ] || "$embertune" evaluate --model_name "$2" --max_seq_length "$length" --index_file_jsonl_path "$out/test_pool.jsonl" \
        --query_file_jsonl_path "$out/test.jsonl" --output "$out/$1.results.json" --json > "$out/$1.json"
}
evaluate base "$model"
for seed in $seeds; do
    for rounds in once rounds; do
        name=$rounds.$seed flags=""
        [ "$rounds" = once ] || flags="--remine_every epoch --candidate_pool $out/pool.jsonl"
        # shellcheck disable=SC2086
        [ -d "$out/model.$name" ] || "$embertune" train --model_name_or_path "$model" --train_data "$out/mined.jsonl" \
            --output_dir "$out/model.$name" --learning_rate "$rate" --num_train_epochs "$epochs" --per_device_train_batch_size 16 \
            --train_group_size 3 --temperature 0.05 --warmup_ratio 0.1 --query_max_len 64 --passage_max_len "$length" --max_seq_length "$length" \
            --save_strategy no --seed "$seed" $flags
        evaluate "$name" "$out/model.$name"
        echo "$name against the base: $("$embertune" compare "$out/base.results.json" "$out/$name.results.json" | sed -n 1,5p | grep -m1 -E "difference|better|worse")"
    done
    echo "seed $seed, rounds against once: $("$embertune" compare "$out/once.$seed.results.json" "$out/rounds.$seed.results.json" | sed -n 1,5p | grep -m1 -E "difference|better|worse")"
done

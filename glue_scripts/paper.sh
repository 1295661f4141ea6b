#!/bin/sh
# The paper's settings on one task of GLUE: EB Train and WORM, three seeds each.
#
#     glue_scripts/paper.sh TASK [further arguments of hf-worm glue]
#
# From the environment: MODEL (Hub id or folder), DATASET (Hub id or folder), OUTPUT (folder), SEEDS, EPOCHS (of the
# search, at the most), PYTHON. Each run goes into OUTPUT/TASK/METHOD-SEED and ends with its result table.
set -eu

task=$1
shift

for seed in ${SEEDS:-1 2 3}; do
    for method in eb_train worm; do
        case $method in
            eb_train) truncation=1 ;;
            worm) truncation=0.003 ;;
        esac
        echo "== $task: $method, seed $seed"
        "${PYTHON:-python}" "$(dirname "$0")/run_glue_worm.py" \
            --model_name_or_path "${MODEL:-bert-base-uncased}" \
            --task_name "$task" \
            --dataset_name "${DATASET:-nyu-mll/glue}" \
            --output_dir "${OUTPUT:-runs}/$task/$method-$seed" \
            --seed "$seed" \
            --max_seq_length 128 \
            --per_device_train_batch_size 32 \
            --learning_rate 2e-5 \
            --num_train_epochs "${EPOCHS:-6}" \
            --retrain_epochs 1 \
            --layers query key \
            --prune_ratio 0.5 \
            --truncation "$truncation" \
            --stopping_point 0.01 \
            --margin 0.005 \
            --window 3 \
            --save_strategy epoch \
            --save_total_limit 1 \
            "$@"
    done
done

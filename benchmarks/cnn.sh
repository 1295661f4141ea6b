#!/bin/sh
# EB Train and WORM on a CNN, one run for each method and seed, as a table of `tables.py` needs them.
#
#     benchmarks/cnn.sh NAME [arguments of hf-worm image]
#     benchmarks/cnn.sh cifar10-vgg11 --model vgg11_bn --dataset_name uoft-cs/cifar10
#
# From the environment: METHODS (of those below), SEEDS, OUTPUT (folder), HF_WORM (the command). Each run goes into
# OUTPUT/NAME/METHOD-SEED. Started again, it goes on with the runs that are not finished.
set -eu

name=$1
shift

for seed in ${SEEDS:-1 2 3}; do
    for method in ${METHODS:-eb_train worm}; do
        case $method in
            eb_train) settings="--truncation 1" ;;
            worm) settings="--truncation 0.003" ;;
            eb_train_global) settings="--truncation 1 --scope global" ;;
            worm_global) settings="--truncation 0.003 --scope global" ;;
            start_*) settings="--truncate_from start --truncation ${method#start_}" ;;
            *) echo "unknown method $method" >&2; exit 2 ;;
        esac
        folder=${OUTPUT:-runs}/$name/$method-$seed
        if grep -qs '"retrained"' "$folder/worm_report.json"; then
            continue
        fi
        echo "== $name: $method, seed $seed"
        # shellcheck disable=SC2086 # the settings are several arguments
        "${HF_WORM:-hf-worm}" image "$@" $settings --seed "$seed" --output_dir "$folder" \
            --overwrite_output_dir --save_strategy no --disable_tqdm true
    done
done

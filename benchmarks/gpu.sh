#!/bin/sh
# What matters on a GPU, in parts of about ten minutes each. A part that was cut short goes on where it was.
#
#     benchmarks/gpu.sh [--dry-run] [PART ...]
#
# Parts: tests (those that need CUDA), overhead (a training step in bf16 at 32 × 128 tokens, and a sampling, on the
# device), compact (what cutting out gains, in bf16), mrpc, rte, sst2 (tables 4 to 6, figure 2), resnet18, vgg11_bn
# (tables 1 to 3, figure 1). None named: all. From the environment: MODEL (Hub id or folder), DATA (folder with glue/
# and cifar10/ as on the Hub), OUT (folder of the results), MINUTES (of a part: no run begins after that), PYTHON.
# --dry-run shows on any machine that all runs.
set -eu

cd "$(dirname "$0")/.."
python=${PYTHON:-python}
scale=full
if [ "${1:-}" = --dry-run ]; then
    scale=dry
    shift
fi
device=$("$python" -c 'import torch; print(torch.cuda.get_device_name() if torch.cuda.is_available() else "")')
if [ -z "$device" ] && [ $scale = full ]; then
    echo "gpu.sh: PyTorch finds no GPU; --dry-run shows that all runs" >&2
    exit 2
fi
echo "== ${device:-no GPU}"

reproduce() {
    "$python" benchmarks/accuracy/reproduce.py --scale $scale --minutes "${MINUTES:-8}" --workers "${WORKERS:-3}" \
        ${MODEL:+--model "$MODEL"} ${DATA:+--data "$DATA"} ${OUT:+--out "$OUT"} "$@"
}

measure() { # SCRIPT, and the arguments of a dry run
    script=$1
    shift
    [ $scale = dry ] || set --
    "$python" "benchmarks/$script.py" "$@" ${OUT:+--out "$OUT"}
}

if [ $scale = dry ]; then
    OUT=${OUT:-runs/dry}
fi
for part in ${*:-tests overhead compact mrpc rte sst2 resnet18 vgg11_bn}; do
    echo "== $part"
    case $part in
        tests) "$python" -m pytest tests -k cuda ;;
        overhead) measure speed/device --batch 2 --length 8 --layers 1 --rounds 2 ;;
        compact) measure speed/compact --rows 2 --length 8 --layers 1 --rounds 2 ;;
        mrpc | rte | sst2) reproduce --table 4 5 6 --figure 2 --task "$part" ;;
        resnet18 | vgg11_bn) reproduce --table 1 2 3 --figure 1 --task "$part" ;;
        *) echo "gpu.sh: unknown part $part" >&2; exit 2 ;;
    esac
done

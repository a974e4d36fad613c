#!/usr/bin/env bash
# Train the weights under model_cards/ again, from recordings to staged repositories: one command for all or some.
#
#   scripts/weights.sh SOURCES [--runs DIR] [NAME ...]
#
# SOURCES holds the folders ptbxl, cinc2011, challenge and ludb, as PhysioNet has them; PTB-XL's fold 9 is kept apart
# from training, and fold 10 untouched. Without names, all: two to three hours on a CPU. Killed or stopped, the same
# command goes on. A model whose encoder is missing makes that first. What is staged in DIR/staged takes no shipped
# model's place by itself.
set -euo pipefail

readonly ORG=clear-hug-hf
readonly CARDS=$(cd "$(dirname "$0")/.." && pwd)/model_cards
readonly RECIPES=$(cd "$(dirname "$0")" && pwd)/recipes
readonly EXTRA=(cinc2011 challenge ludb)
readonly NAMES=(
    clear-hug-small clear-hug-small-ptbxl-{super,sub,form,rhythm}
    ecg-jepa-tiny ecg-jepa-tiny-ptbxl-super
    ecg-scan-tiny ecg-scan-tiny-ptbxl-super
)

if [[ $# -lt 1 || $1 == -* ]]; then
    sed -n '2,9s/^# \{0,1\}//p' "$0"
    echo "names: ${NAMES[*]}"
    [[ ${1:-} == --help || ${1:-} == -h ]] && exit 0 || exit 2
fi
readonly SOURCES=$1
shift
runs=runs/weights
if [[ ${1:-} == --runs ]]; then
    runs=${2:?--runs needs a folder}
    shift 2
fi

prepare() { # SYSTEM SOURCE [LABELS]: folder in $prepared
    prepared=$runs/prepared/$1/${3:-$2}
    local options=(--system "$1" --output-dir "$prepared")
    [[ $2 == ptbxl ]] || options+=(--split-fractions 1 0 0)
    # What its files do not say.
    [[ $2 != cinc2011 ]] || options+=(
        --reader-options "title=PhysioNet/CinC Challenge 2011" "license=ODC-By 1.0"
        "citation=Silva et al., Improving the quality of ECGs collected using mobile phones: the\
 PhysioNet/Computing in Cardiology Challenge 2011, Comput Cardiol 38, 273-276 (2011)"
    )
    [[ -z ${3:-} ]] || options+=(--labels "$3")
    # Pages are drawn in millivolts; recordings that came normalized are taken to have this deviation in every lead.
    [[ $1 != ecg_scan ]] || options+=(--extractor-settings millivolts_per_unit=0.11)
    clear-hug prepare "$SOURCES/$2" "${options[@]}"
}

encoder() { # NAME SYSTEM RECIPE [OPTION ...]
    local name=$1 system=$2 recipe=$3 folders=() one
    shift 3
    [[ ! -f $runs/$name/finished ]] || return 0
    for one in ptbxl "${EXTRA[@]}"; do
        prepare "$system" "$one"
        folders+=("$prepared")
    done
    clear-hug pretrain --config "$RECIPES/$recipe" --data "${folders[@]}" --output-dir "$runs/$name" "$@"
    touch "$runs/$name/finished"
}

clear_encoder() { encoder clear-hug-small clear_hug clear_small.yaml; }

jepa_encoder() {
    encoder ecg-jepa-tiny ecg_jepa ecg_jepa_tiny.yaml --num-train-epochs 20 --augmentation 1 --mixed-precision bf16
}

scan_encoder() { # Its teacher is the shipped encoder. CinC 2011 has nothing to make texts of.
    [[ ! -f $runs/ecg-scan-tiny/finished ]] || return 0
    prepare ecg_scan ptbxl ptbxl_all
    local folders=("$prepared") one
    for one in challenge ludb; do
        prepare ecg_scan "$one"
        folders+=("$prepared")
    done
    clear-hug pretrain --config "$RECIPES/ecg_scan_tiny.yaml" --data "${folders[@]}" \
        --signal-encoder "$CARDS/clear-hug-small" --output-dir "$runs/ecg-scan-tiny"
    touch "$runs/ecg-scan-tiny/finished"
}

classifier() { # NAME SYSTEM ENCODER LABELS
    prepare "$2" ptbxl "ptbxl_$4"
    clear-hug finetune --data "$prepared" --model "$runs/$3" --output-dir "$runs/$1" --min-positives 10
}

stage() { # NAME
    clear-hug publish "$runs/$1" "$ORG/$1" --dry-run "$runs/staged/$1" --dtype float16 --license cc-by-4.0
    echo "shipped is model_cards/$1; if this one is better on fold 9: cp $runs/staged/$1/* model_cards/$1/"
}

make_one() { # NAME
    case $1 in
    clear-hug-small) clear_encoder ;;
    clear-hug-small-ptbxl-super | clear-hug-small-ptbxl-sub | clear-hug-small-ptbxl-form | clear-hug-small-ptbxl-rhythm)
        clear_encoder
        classifier "$1" clear_hug clear-hug-small "${1##*-}"
        ;;
    ecg-jepa-tiny) jepa_encoder ;;
    ecg-jepa-tiny-ptbxl-super)
        jepa_encoder
        classifier "$1" ecg_jepa ecg-jepa-tiny super
        ;;
    ecg-scan-tiny) scan_encoder ;;
    ecg-scan-tiny-ptbxl-super)
        scan_encoder
        classifier "$1" ecg_scan ecg-scan-tiny super
        ;;
    *)
        echo "there are no weights called $1: choose from ${NAMES[*]}" >&2
        exit 2
        ;;
    esac
    stage "$1"
}

for name in "${@:-${NAMES[@]}}"; do
    make_one "$name"
done

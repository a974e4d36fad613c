#!/usr/bin/env bash
# Convert released weights of public ECG encoders, train a linear probe of each on PTB-XL, and print the macro AUROC
# beside the published one. Needs a connection, or the files themselves.
#
#   scripts/check_released_weights.sh PTBXL [--runs DIR] [NAME | NAME=FILE ...]
#
# PTBXL is PTB-XL's folder, as PhysioNet has it. NAME is an encoder of the list below; NAME=FILE converts a file that
# you have downloaded, which is required where the authors use another place than the Hub. If stopped, the same command
# continues. ecg-founder runs three times, since its authors describe three ways of preprocessing: the one with the
# best validation result probably belongs to the weights. HeartLang's published result was reached with
# scaling="standard", while the converted model reads millivolts.
set -euo pipefail

declare -A SOURCES=(
    [ecg-founder]=hf://PKUDigitalHealth/ECGFounder
    [ecg-fm]=hf://wanglab/ecg-fm
    [heartlang]=hf://PKUDigitalHealth/HeartLang
    [hubert-ecg]=hf://Edoardo-BS/hubert-ecg-base
    [ecg-cpc]=https://ndownloader.figshare.com/files/58173919
)
# Macro AUROC in percent of a linear probe on the five superclasses with all labels, from the paper named.
declare -A PUBLISHED=(
    [heartlang]="87.5 (Pan et al., AAAI 2026, Table 1)"
    [st-mem]="71.4 (Pan et al., AAAI 2026, Table 1)"
)

if [[ $# -lt 1 || $1 == -* ]]; then
    sed -n '2,12s/^# \{0,1\}//p' "$0"
    echo "names: ${!SOURCES[*]} st-mem=FILE"
    [[ ${1:-} == --help || ${1:-} == -h ]] && exit 0 || exit 2
fi
readonly PTBXL=$1
shift
runs=runs/released
if [[ ${1:-} == --runs ]]; then
    runs=${2:?--runs needs a folder}
    shift 2
fi
[[ $# -gt 0 ]] || set -- "${!SOURCES[@]}"

probe() { # NAME SOURCE [PREPROCESSING]: adds a line to the table
    local name=$1 source=$2 run=$1${3:+-$3} options=()
    [[ -z ${3:-} ]] || options=(--preprocessing "$3")
    [[ -f $runs/converted/$run/conversion.json ]] ||
        clear-hug convert "$name" "$source" "$runs/converted/$run" "${options[@]}"
    clear-hug prepare "$PTBXL" --labels ptbxl_super --model "$runs/converted/$run" --windows all \
        --output-dir "$runs/prepared/$run"
    clear-hug finetune --data "$runs/prepared/$run" --model "$runs/converted/$run" --head-type mean --no-control \
        --output-dir "$runs/probes/$run"
    lines+=("$(python - "$runs/probes/$run/metrics.json" "$run" "${PUBLISHED[$name]:-not published for this probe}" <<'PYTHON'
import json
import sys

path, run, published = sys.argv[1:]
with open(path) as file:
    results = json.load(file)["pretrained"]

def text(split):
    if split not in results:
        return ""
    auroc = {name: 100 * value for name, value in results[split]["macro_auroc"].items()}
    return f"{auroc['value']:.1f} ({auroc['low']:.1f} to {auroc['high']:.1f})"


print(f"{run:26s}  {text('validation'):21s}  {text('test'):21s}  {published}")
PYTHON
    )")
}

lines=("$(printf '%-26s  %-21s  %-21s  %s' "macro AUROC [%]" "fold 9 (95 % interval)" "fold 10" "published, fold 10")")
for argument in "$@"; do
    name=${argument%%=*}
    source=${SOURCES[$name]:-}
    [[ $argument != *=* ]] || source=${argument#*=}
    if [[ -z $source ]]; then
        echo "$name is not on the Hub: download its file, and pass $name=FILE" >&2
        exit 2
    fi
    if [[ $source == https:* ]]; then
        if [[ ! -f $runs/converted/$name/conversion.json ]]; then
            mkdir -p "$runs/downloads"
            curl --fail --location --continue-at - --output "$runs/downloads/$name.zip" "$source"
        fi
        source=$runs/downloads/$name.zip
    fi
    if [[ $name == ecg-founder ]]; then
        probe "$name" "$source" fine_tuning
        probe "$name" "$source" evaluation
        probe "$name" "$source" paper
    else
        probe "$name" "$source"
    fi
done
printf '%s\n' "" "${lines[@]}"

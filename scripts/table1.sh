#!/usr/bin/env bash
# From recordings to Table 1 of the paper at tiny size, with all objectives: hours on one core, resumed if stopped.
#
#   scripts/table1.sh SOURCES [OUTPUT] [OPTION ...]
#
# SOURCES holds the folder ptbxl, and for pre-training also cinc2011, challenge and ludb, as PhysioNet has them. OUTPUT
# (default: runs/table1) gets table1.csv and table1.md. The options are those of benchmarks/table1.py, such as --estimate,
# --rows or --smoke.
set -euo pipefail

if [[ $# -lt 1 || $1 == -* ]]; then
    sed -n '2,8s/^# \{0,1\}//p' "$0"
    [[ ${1:-} == --help || ${1:-} == -h ]] && exit 0 || exit 2
fi
readonly SOURCES=$1
shift
OUTPUT=runs/table1
if [[ $# -gt 0 && $1 != -* ]]; then
    OUTPUT=$1
    shift
fi
readonly OUTPUT
extra=()
for name in cinc2011 challenge ludb; do
    [[ ! -d $SOURCES/$name ]] || extra+=("$SOURCES/$name")
done
export OMP_NUM_THREADS=1 # the seconds of a row are those of one core
exec python "$(dirname "$0")/../benchmarks/table1.py" --data "$SOURCES/ptbxl" --extra "${extra[@]}" --output "$OUTPUT" "$@"

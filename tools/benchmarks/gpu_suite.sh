#!/usr/bin/env bash
# All benchmarks on one GPU, in less than ten minutes and without mmcv; tables at the end.
#   bash tools/benchmarks/gpu_suite.sh
# Environment: OUT (work_dirs/benchmarks) takes the JSON, pictures and logs; PUBLISHED, a clone of the
#   published repository, adds its code; DEVICE (cuda); QUICK=1 tries all of it out on tiny models;
#   LIMIT (560) seconds for all; PYTHON as in dist_train.sh.
# Every part has its own limit and what it measured up to there is kept, so that the later ones still
# run. Exit status: 0, or 1 if a part failed or ran out of time.

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
top=$(cd "$here/../.." && pwd)
out=${OUT:-work_dirs/benchmarks}
device=${DEVICE:-cuda}
limit=${LIMIT:-560}
source "$top/tools/find_python.sh"
export PYTHONPATH="$top${PYTHONPATH:+:$PYTHONPATH}"

mistake() {
    echo "error: $*" >&2
    exit 2
}

[[ $limit =~ ^[1-9][0-9]{0,4}$ ]] || mistake "LIMIT is a number of seconds, got '$limit'"
[[ $device =~ ^(cpu|cuda(:[0-9]+)?)$ ]] || mistake "DEVICE is cpu or cuda[:N], got '$device'"
[ -z "$PUBLISHED" ] || [ -f "$PUBLISHED/classification/models/vHeat.py" ] ||
    mistake "PUBLISHED: no classification/models/vHeat.py in $PUBLISHED: give a clone of the published repository"
"$PYTHON" -c 'import mmvheat' || mistake "$PYTHON cannot import mmvheat: see the line above"
[ "$device" = cpu ] || "$PYTHON" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' ||
    mistake "torch finds no CUDA GPU: DEVICE=cpu QUICK=1 tries the suite out without one"
mkdir -p "$out" || exit 2

# has PACKAGE WHAT: whether it is installed; else WHAT is left out.
has() {
    "$PYTHON" -c "import importlib.util, sys; sys.exit(importlib.util.find_spec('$1') is None)" ||
        { echo "$1 is not installed: $2 left out" >&2 && false; }
}

peers='' picture=''
has timm 'Swin and ConvNeXt are' && peers=yes
has matplotlib 'pictures are' && picture=yes

# models SCALE ...: ours of these sizes, with what there is to compare.
models() {
    for scale in "$@"; do
        echo "vheat-$scale" ${peers:+"swin-$scale" "convnext-$scale"}
    done
}

began=$SECONDS
status=0
parts=()

# part NAME SECONDS COMMAND ...: run it, keep what it prints.
part() {
    local name=$1 seconds=$2 left=$((limit - (SECONDS - began))) result start=$SECONDS
    shift 2
    parts+=("$name")
    # The limits of the parts are for their full sizes.
    if [ -n "$QUICK" ] || ((seconds > left)); then seconds=$left; fi
    if ((seconds < 1)); then
        echo 'no time was left for it' >"$out/$name.txt"
        status=1
        return
    fi
    echo "== $name (at most $seconds s) ==" >&2
    timeout --kill-after=15 "$seconds" "$@" >"$out/$name.txt"
    result=$?
    case $result in
        0) ;;
        124 | 137) echo "stopped after $seconds s: what is above was measured before" >>"$out/$name.txt" ;;
        *) echo "failed with status $result" >>"$out/$name.txt" ;;
    esac
    ((result == 0)) || status=1
    echo "$name: status $result after $((SECONDS - start)) s" >&2
}

# benchmark NAME SECONDS SCRIPT ARGUMENT ...
benchmark() {
    local name=$1 seconds=$2 script=$3
    shift 3
    part "$name" "$seconds" "$PYTHON" -u "$here/$script.py" --device "$device" \
        --json "$out/$name.json" ${picture:+--plot "$out/$name.png"} "$@"
}

published=(${PUBLISHED:+--published "$PUBLISHED"})
if [ -n "$QUICK" ]; then
    scales=(micro) few=(--threads 1 --repetitions 2 --sample-ms 1)
    backbone=(--dtype bfloat16 --batch 2 --size 64 "${few[@]}")
    compiled=("${backbone[@]}" --compile eager)
    operator=(--batch 2 "${few[@]}")
    maps=(--maps 7x7x8 --exponent-sizes 8 16 --exponent-channels 8)
    compiled_maps=(--maps 7x7x8 --exponent-sizes --compile eager)
    resolution=(--scale micro --resolutions 64 96 --batch 2 "${few[@]}")
    detection=(--path detection --dtype bfloat16 --batch 1 --size 72 101 "${few[@]}")
else
    scales=(tiny base small)
    backbone=(--dtype bfloat16 --batch 128)
    # Compiling takes longer than measuring, so it is for the smallest models and a few maps.
    compiled=("${backbone[@]}" --compile --compile-limit 60)
    operator=(--dtype bfloat16 --batch 32)
    maps=()
    compiled_maps=(--maps 14x14x384 56x56x96 200x334x96 --exponent-sizes --compile)
    resolution=(--dtype bfloat16 --batch 8)
    detection=(--path detection --dtype bfloat16 --batch 2)
fi

# On a CPU they are all skipped, or run in Triton's interpreter, which tells nothing that CI does not.
if [ "$device" != cpu ] && has pytest 'the GPU tests are'; then
    # Without the settings of pyproject.toml, which need pytest's plugins.
    tests=("$PYTHON" -m pytest -q -c /dev/null --rootdir "$top" -o pythonpath="$top/tests"
        --import-mode=importlib -p no:cacheprovider)
    part gpu_tests 40 "${tests[@]}" -m gpu "$top/tests/ops" "$top/tests/models"
    part kernel_tests 60 "${tests[@]}" "$top/tests/ops/kernels/test_conduction.py" \
        "$top/tests/ops/kernels/test_gated_norm.py"
fi
smallest=${scales[0]}
benchmark heat_operator 60 heat_operator "${operator[@]}" "${maps[@]}"
benchmark backbone 120 backbone --models $(models "${scales[@]}") "${published[@]}" "${backbone[@]}"
if [ -z "$peers" ]; then resolution+=(--models vheat); fi
if [ "$device" != cpu ]; then
    MMVHEAT_KERNELS=1 benchmark backbone_kernels 40 backbone --models $(models "$smallest") \
        "${published[@]}" "${backbone[@]}"
fi
benchmark resolution 80 resolution "${resolution[@]}"
benchmark detection 40 backbone --models "vheat-$smallest" "${published[@]}" "${detection[@]}"
benchmark heat_operator_compiled 40 heat_operator "${operator[@]}" "${compiled_maps[@]}"
benchmark backbone_compiled 90 backbone --models $(models "$smallest") "${published[@]}" \
    "${compiled[@]}" --phases throughput
benchmark training_compiled 90 backbone --models $(models "$smallest") "${published[@]}" \
    "${compiled[@]}" --phases training

for name in "${parts[@]}"; do
    printf '\n======== %s ========\n' "$name"
    cat "$out/$name.txt"
done
printf '\n%s s in all; JSON and pictures are in %s\n' $((SECONDS - began)) "$out"
exit $status

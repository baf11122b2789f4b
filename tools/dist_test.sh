#!/usr/bin/env bash
# Test with several processes: one a GPU, or on the CPU (gloo) where there is none.
#   bash tools/dist_test.sh CONFIG CHECKPOINT GPUS [arguments of test.py]
# As in OpenMMLab: NNODES, NODE_RANK, MASTER_ADDR, PORT (29500; a free port if all are unset).
# PYTHON names the interpreter: else the clone's .venv/bin/python, else python or python3.

tools=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
if [ $# -lt 3 ]; then
    echo "error: usage: bash tools/dist_test.sh CONFIG CHECKPOINT GPUS [arguments of test.py]" >&2
    exit 2
fi
config=$1 checkpoint=$2 processes=$3
shift 3
if [ ! -f "$config" ]; then
    echo "error: $config does not exist or is no file: give the path of a config" >&2
    exit 2
fi
if [ ! -f "$checkpoint" ] && [[ $checkpoint != *://* ]]; then
    echo "error: $checkpoint does not exist or is no file: give the path of a checkpoint" >&2
    exit 2
fi
source "$tools/find_python.sh"
PYTHONPATH="$tools/..${PYTHONPATH:+:$PYTHONPATH}" exec "$PYTHON" -m mmvheat.cli.launch \
    "$processes" "$tools/test.py" "$config" "$checkpoint" --launcher pytorch "$@"

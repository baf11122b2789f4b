#!/usr/bin/env bash
# Train with several processes: one a GPU, or on the CPU (gloo) where there is none.
#   bash tools/dist_train.sh CONFIG GPUS [arguments of train.py]
# As in OpenMMLab: NNODES, NODE_RANK, MASTER_ADDR, PORT (29500; a free port if all are unset).
# PYTHON names the interpreter: else the clone's .venv/bin/python, else python or python3.

tools=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
if [ $# -lt 2 ]; then
    echo "error: usage: bash tools/dist_train.sh CONFIG GPUS [arguments of train.py]" >&2
    exit 2
fi
config=$1 processes=$2
shift 2
if [ ! -f "$config" ]; then
    echo "error: $config does not exist or is no file: give the path of a config" >&2
    exit 2
fi
source "$tools/find_python.sh"
PYTHONPATH="$tools/..${PYTHONPATH:+:$PYTHONPATH}" exec "$PYTHON" -m mmvheat.cli.launch \
    "$processes" "$tools/train.py" "$config" --launcher pytorch "$@"

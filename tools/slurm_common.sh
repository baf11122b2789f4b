# Sourced by slurm_train.sh and slurm_test.sh: checks, and the call of srun.
#   Environment: GPUS (8) in all, GPUS_PER_NODE (8, or GPUS if that is less), CPUS_PER_TASK (5),
#   SRUN_ARGS and PY_ARGS (more arguments, split at spaces), PORT (29500), PYTHON as in dist_train.sh.
#   CUDA_VISIBLE_DEVICES=-1 asks slurm for no GPU: the processes then run on the CPU.

mistake() {
    echo "error: $*" >&2
    exit 2
}

check_file() { # NAME WHAT
    [ -f "$1" ] || mistake "$1 does not exist or is no file: give the path of a $2"
}

check_number() { # NAME VALUE
    [[ $2 =~ ^[1-9][0-9]{0,5}$ ]] || mistake "$1 must be an integer >= 1, got '$2'"
}

# srun_python PARTITION JOB_NAME SCRIPT [ARGUMENT ...]
srun_python() {
    local partition=$1 job_name=$2
    shift 2
    local gpus=${GPUS:-8}
    check_number GPUS "$gpus"
    local per_node=${GPUS_PER_NODE:-$((gpus < 8 ? gpus : 8))} cpus=${CPUS_PER_TASK:-5}
    check_number GPUS_PER_NODE "$per_node"
    check_number CPUS_PER_TASK "$cpus"
    if ((gpus % per_node)); then
        mistake "GPUS=$gpus is no multiple of GPUS_PER_NODE=$per_node: every node runs as many processes"
    fi
    if [ -n "$PORT" ]; then
        [[ $PORT =~ ^[1-9][0-9]{0,4}$ ]] && ((PORT < 65536)) ||
            mistake "PORT is an integer from 1 to 65535, got '$PORT'"
        export MASTER_PORT=$PORT
    fi
    command -v srun >/dev/null ||
        mistake "srun is not on PATH: call this on a login node of a slurm cluster, or use tools/dist_*.sh"
    source "$tools/find_python.sh"
    local gres=(--gres="gpu:$per_node")
    if [ "$CUDA_VISIBLE_DEVICES" = -1 ]; then
        gres=()
        export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$cpus}
    fi
    export PYTHONPATH="$tools/..${PYTHONPATH:+:$PYTHONPATH}"
    # Unquoted on purpose: both hold several words.
    exec srun -p "$partition" --job-name="$job_name" "${gres[@]}" --ntasks="$gpus" \
        --ntasks-per-node="$per_node" --cpus-per-task="$cpus" --kill-on-bad-exit=1 $SRUN_ARGS \
        "$PYTHON" -u "$@" --launcher slurm $PY_ARGS
}

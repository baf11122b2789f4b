#!/usr/bin/env bash
# Test on a slurm cluster, one process a GPU.
#   [GPUS=8] bash tools/slurm_test.sh PARTITION JOB_NAME CONFIG CHECKPOINT [arguments of test.py]
# The environment variables are OpenMMLab's; slurm_common.sh names them.

tools=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
source "$tools/slurm_common.sh"
[ $# -ge 4 ] ||
    mistake "usage: bash tools/slurm_test.sh PARTITION JOB_NAME CONFIG CHECKPOINT [arguments of test.py]"
partition=$1 job_name=$2 config=$3 checkpoint=$4
shift 4
check_file "$config" config
[[ $checkpoint == *://* ]] || check_file "$checkpoint" checkpoint
srun_python "$partition" "$job_name" "$tools/test.py" "$config" "$checkpoint" "$@"

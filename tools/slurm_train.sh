#!/usr/bin/env bash
# Train on a slurm cluster, one process a GPU.
#   [GPUS=16] bash tools/slurm_train.sh PARTITION JOB_NAME CONFIG [WORK_DIR] [arguments of train.py]
# The environment variables are OpenMMLab's; slurm_common.sh names them.

tools=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
source "$tools/slurm_common.sh"
[ $# -ge 3 ] ||
    mistake "usage: bash tools/slurm_train.sh PARTITION JOB_NAME CONFIG [WORK_DIR] [arguments of train.py]"
partition=$1 job_name=$2 config=$3
shift 3
check_file "$config" config
# A word in WORK_DIR's place is one; mmseg's script has none there.
work_dir=()
if [ $# -gt 0 ] && [[ $1 != -* ]]; then
    work_dir=(--work-dir "$1")
    shift
fi
srun_python "$partition" "$job_name" "$tools/train.py" "$config" "${work_dir[@]}" "$@"

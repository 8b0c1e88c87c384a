#!/usr/bin/env bash
# Trains on the GPUs of several nodes by SLURM; stopped by its time limit or preempted, it is queued again.
#
#   sbatch --nodes=2 --gpus-per-node=8 --ntasks-per-node=8 launch/slurm.sh --config=configs/cityscapes.py --workdir=DIR ...
#   launch/slurm.sh --dry_run --config=configs/cityscapes.py --workdir=DIR
#
# One process for each GPU, which is what JAX expects under SLURM. DIR must be on a disk that all nodes share. All that
# follows the script's name goes to the training. A process that ends with status 1 ends the job; otherwise, where one
# ends with 75 (stopped by a signal) or is killed, the job is queued again, at most RETRIES times (20).
#SBATCH --job-name=gcn_flax
#SBATCH --gpu-bind=none
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=TERM@120
# SLURM runs a copy of this file: the checkout is where sbatch was called.
# shellcheck source=common.sh
source "${SLURM_SUBMIT_DIR:-$(dirname "$0")/..}/launch/common.sh"
PYTHON=${PYTHON:-$ROOT/.venv/bin/python}
step=(srun --kill-on-bad-exit=0 --wait=150 "--chdir=$ROOT" "$PYTHON" -m gcn_flax.main)
if [[ ${1:-} == --dry_run ]]; then
  DRY_RUN=1
  run "${step[@]}" "${@:2}"
  exit
fi
(($#)) || { sed -n '2,/^#SBATCH/{/^#SBATCH/d;s/^# \{0,1\}//;p}' "$0" >&2 && exit 1; }
[[ -n ${SLURM_JOB_ID:-} ]] || die "start it by sbatch, see the head of $0"

trap : TERM # The processes get the signal themselves, and save; this shell waits for them.
log=$(mktemp)
{ "${step[@]}" "$@" 2>&1 >&3 | tee "$log" >&2; } 3>&1 &
status=0
await $! || status=$?
((status != 0)) || exit 0
# srun gives the highest status of all processes, so a mistake of the user, 1, hides behind the others: srun names each.
if grep -Eq 'Exited with exit code 1$' "$log" || ((${SLURM_RESTART_COUNT:-0} >= ${RETRIES:-20})); then
  exit "$status"
fi
scontrol requeue "$SLURM_JOB_ID"

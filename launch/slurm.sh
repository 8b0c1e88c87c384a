#!/usr/bin/env bash
# Trains on the GPUs of several nodes under SLURM. A job that is preempted or reaches its time limit is requeued.
#
#   sbatch --nodes=2 --gpus-per-node=8 --ntasks-per-node=8 launch/slurm.sh --config=configs/cityscapes.py --workdir=DIR ...
#   launch/slurm.sh --dry_run --config=configs/cityscapes.py --workdir=DIR
#
# Runs one process per GPU, as JAX expects under SLURM. DIR must be on a disk that all nodes share. All arguments are
# passed on to gcn_flax.main. If a process exits with status 1, the job ends; otherwise, if one exits with 75 (stopped
# by a signal) or is killed, the job is requeued, at most RETRIES times (default: 20).
#SBATCH --job-name=gcn_flax
#SBATCH --gpu-bind=none
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=TERM@120
# SLURM runs a copy of this file, so the checkout is the folder in which sbatch was called.
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
[[ -n ${SLURM_JOB_ID:-} ]] || die "not in a SLURM job. Start it with sbatch, as described at the top of $0"

trap : TERM # The processes get the signal too and save a checkpoint; this shell waits for them.
log=$(mktemp)
{ "${step[@]}" "$@" 2>&1 >&3 | tee "$log" >&2; } 3>&1 &
status=0
await $! || status=$?
((status != 0)) || exit 0
# srun exits with the highest status of all processes, which hides status 1, an error of the user; its log names each.
if grep -Eq 'Exited with exit code 1$' "$log" || ((${SLURM_RESTART_COUNT:-0} >= ${RETRIES:-20})); then
  exit "$status"
fi
scontrol requeue "$SLURM_JOB_ID"

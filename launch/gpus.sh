#!/usr/bin/env bash
# Trains on all GPUs of this host, and restarts training that was stopped by a signal.
#
#   launch/gpus.sh [--retries=20] [--dry_run] -- --config=configs/cityscapes.py --workdir=runs/cityscapes ...
#
# One process uses all GPUs. It is restarted, at most --retries times, after exit status 75 (stopped by a signal) and
# when a signal killed it; after 0 and 1 the launcher exits with the same status. SIGTERM or Ctrl-C to the launcher is
# passed on to the training; the launcher exits once that has saved a checkpoint. Set PYTHON to use another interpreter
# than .venv/bin/python.
source "$(dirname "$0")/common.sh"

RETRIES=20
parse "retries" "$@"
((${#REST[@]})) || usage 1 >&2
PYTHON=${PYTHON:-$ROOT/.venv/bin/python}
cd "$ROOT"
command=("$PYTHON" -m gcn_flax.main "${REST[@]}")
if [[ -n $DRY_RUN ]]; then
  run "${command[@]}"
  exit
fi

stopping=
child=
trap 'stopping=1; [[ -z $child ]] || kill -TERM "$child" 2>/dev/null || true' TERM INT
for ((attempt = 0; attempt <= RETRIES; attempt++)); do
  ((attempt == 0)) || echo "start $((attempt + 1)) of at most $((RETRIES + 1)) after exit status $status" >&2
  "${command[@]}" &
  child=$!
  [[ -z $stopping ]] || kill -TERM "$child" # The signal came while no child was running.
  status=0
  await "$child" || status=$?
  [[ -z $stopping ]] && ((status == 75 || status > 128)) || exit "$status"
done
exit "$status"

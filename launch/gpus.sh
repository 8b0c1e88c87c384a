#!/usr/bin/env bash
# Trains on all GPUs of this host, and goes on after a signal that was not meant for good.
#
#   launch/gpus.sh [--retries=20] [--dry_run] -- --config=configs/cityscapes.py --workdir=runs/cityscapes ...
#
# One process sees all GPUs. Exit status 75 (stopped by a signal) and death by a signal start it again, at most --retries
# times; 0 and 1 end the launcher with the same status. A SIGTERM or Ctrl-C to the launcher is passed on, waited for, and
# ends it. PYTHON names another interpreter than .venv/bin/python.
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
  ((attempt == 0)) || echo "start $((attempt + 1)) of at most $((RETRIES + 1)), after exit status $status" >&2
  "${command[@]}" &
  child=$!
  [[ -z $stopping ]] || kill -TERM "$child" # It came while there was no child.
  status=0
  await "$child" || status=$?
  [[ -z $stopping ]] && ((status == 75 || status > 128)) || exit "$status"
done
exit "$status"

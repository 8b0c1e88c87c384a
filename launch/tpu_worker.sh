#!/usr/bin/env bash
# Runs on each VM of a slice, in its checkout, started by launch/tpu_vm.sh.
#
#   launch/tpu_worker.sh start BRING DATA FLAGS...   mounts or stages DATA (launch/data.sh), starts `train` as a service
#   launch/tpu_worker.sh train FLAGS...              trains; logs to ~/gcn_flax.log, exit status in ~/gcn_flax.status
#   launch/tpu_worker.sh status                      prints that exit status, or "running", or "gone"
source "$(dirname "$0")/common.sh"
cd "$ROOT"
METADATA=http://metadata.google.internal/computeMetadata/v1/instance
LOG=$HOME/gcn_flax.log STATUS=$HOME/gcn_flax.status

# Sends SIGTERM to process $1 as soon as Cloud announces that this VM will be preempted or maintained.
watch_notices() {
  local event preempted
  while kill -0 "$1" 2>/dev/null; do
    event=$(curl -sf -m 5 -H 'Metadata-Flavor: Google' "$METADATA/maintenance-event" || true)
    preempted=$(curl -sf -m 5 -H 'Metadata-Flavor: Google' "$METADATA/preempted" || true)
    if [[ ${event:-NONE} != NONE || $preempted == TRUE ]]; then
      echo "notice: maintenance ${event:-NONE}, preempted ${preempted:-FALSE}" >>"$LOG"
      kill -TERM "$1" 2>/dev/null || true
      return
    fi
    sleep 5
  done
}

case ${1:-} in
  start)
    # gcloud repeats a command when its connection breaks, but a service must only be started once.
    if systemctl is-active --quiet gcn_flax; then
      echo "already running"
      exit
    fi
    launch/data.sh "$2" "$3" /tmp/data
    rm -f "$STATUS"
    # When the VM shuts down, systemd sends SIGTERM and waits, so that training saves a checkpoint.
    sudo systemd-run --unit=gcn_flax --collect --uid="$(id -u)" --setenv=HOME="$HOME" --property=KillMode=mixed \
      --property=TimeoutStopSec=120 --property=LimitMEMLOCK=infinity \
      "$PWD/launch/tpu_worker.sh" train "${@:4}" --config.data.data_dir=/tmp/data
    ;;
  train)
    shift
    trap 'kill -TERM "$child" 2>/dev/null || true' TERM
    .venv/bin/python -m gcn_flax.main "$@" >>"$LOG" 2>&1 &
    child=$!
    watch_notices "$child" &
    status=0
    await "$child" || status=$?
    echo "$status" >"$STATUS.new" && mv "$STATUS.new" "$STATUS"
    exit "$status"
    ;;
  status)
    if [[ -e $STATUS ]]; then
      cat "$STATUS"
    elif systemctl is-active --quiet gcn_flax; then
      echo running
    else
      echo gone
    fi
    ;;
  *)
    die "${1:-no command}: unknown command. Choose from: start train status"
    ;;
esac

#!/usr/bin/env bash
# Trains on a Cloud TPU slice of one or more VMs, and continues on a new slice when a spot slice is preempted.
#
#   launch/tpu_vm.sh up NAME --project=P --zone=Z --type=v5litepod-16 --data=gs://BUCKET/DATA [--spot=1] \
#     [--restarts=50] -- FLAGS
#
# FLAGS are those of gcn_flax.main, with a workdir in a bucket: --config=configs/cityscapes.py --workdir=gs://BUCKET/RUN
# `up` runs the commands below in order, and again on a new slice, up to --restarts times, until training has ended:
#
#   create   requests the slice and waits until it is ready
#   install  copies this checkout to all VMs of the slice and installs its requirements
#   run      makes the data available on each VM (launch/data.sh, --bring=mount or stage) and starts training there as
#            a systemd service (launch/tpu_worker.sh). The service gets SIGTERM, and time to save a checkpoint, when
#            Cloud announces maintenance or preemption and when the VM shuts down
#   wait     waits until training has ended on all VMs or the slice is gone; exits with the training's status, or 75
#   logs     prints the last lines of every VM's log
#   fetch    copies every VM's log to --output (default: runs/NAME)
#   delete   deletes the slice and its request
#
# --type: gcloud's --accelerator-type. --runtime: the VM image (default: the one Google recommends for the type).
# --dry_run prints the commands instead of running them. This API cannot create TPU7x slices: use launch/gke.sh.
source "$(dirname "$0")/common.sh"

# Prints the image that Google recommends for each generation (docs.cloud.google.com/tpu/docs/runtimes).
runtime_of() {
  case $1 in
    v2-* | v3-* | v4-*) echo tpu-ubuntu2204-base ;;
    v5litepod-*) echo v2-alpha-tpuv5-lite ;;
    v5p-*) echo v2-alpha-tpuv5 ;;
    v6e-*) echo v2-alpha-tpuv6e ;;
    *) die "--type=$1: unknown type. Choose, for instance, v2-8, v3-8, v4-8, v5litepod-8, v5p-8 or v6e-8" ;;
  esac
}

tpus() {
  local group=$1 verb=$2
  shift 2
  run gcloud compute tpus "$group" "$verb" "$NAME" --project="$PROJECT" --zone="$ZONE" "$@"
}

on_all() { tpus tpu-vm ssh --worker=all --command="$1"; }

# Prints the state of the request; nothing if there is no request, or in a dry run.
state() { [[ -n $DRY_RUN ]] || tpus queued-resources describe --format='value(state.state)' 2>/dev/null || true; }

create() {
  need TYPE
  local runtime now=
  runtime=${RUNTIME:-$(runtime_of "$TYPE")} || exit 1
  # Repeating the command waits for the existing request.
  [[ -n $(state) ]] || tpus queued-resources create --node-id="$NAME" --accelerator-type="$TYPE" \
    --runtime-version="$runtime" ${SPOT:+--spot} --async
  [[ -z $DRY_RUN ]] || return 0
  until [[ $now == ACTIVE ]]; do
    now=$(state)
    echo "$(date +%T) $NAME: ${now:-unknown}"
    [[ $now != FAILED && $now != SUSPENDED ]] ||
      die "$NAME is $now. Create it again after launch/tpu_vm.sh delete $NAME --project=$PROJECT --zone=$ZONE"
    [[ $now == ACTIVE ]] || sleep 30
  done
}

install() {
  local archive bring=
  # Mounting needs gcsfuse (cloud.google.com/storage/docs/cloud-storage-fuse/install).
  [[ $BRING == stage ]] || bring="command -v gcsfuse >/dev/null || { \
curl -fsSL https://packages.cloud.google.com/apt/doc/apt-key.gpg | sudo tee /usr/share/keyrings/cloud.google.asc >/dev/null; \
echo deb [signed-by=/usr/share/keyrings/cloud.google.asc] https://packages.cloud.google.com/apt \
gcsfuse-\$(lsb_release -c -s) main | sudo tee /etc/apt/sources.list.d/gcsfuse.list >/dev/null; \
sudo apt-get update -qq; sudo apt-get install -qqy gcsfuse; }; "
  archive=$(mktemp -d)/gcn_flax.tar.gz
  run git -C "$ROOT" archive --format=tar.gz --prefix=gcn_flax/ --output="$archive" HEAD
  run gcloud compute tpus tpu-vm scp "$archive" "$NAME:gcn_flax.tar.gz" --project="$PROJECT" --zone="$ZONE" --worker=all
  # The images have Python 3.10; uv installs a newer one.
  on_all "set -e; ${bring}tar -xzf gcn_flax.tar.gz; cd gcn_flax; python3 -m pip install --quiet --user uv; \
export PATH=\$HOME/.local/bin:\$PATH; uv venv --quiet --allow-existing --python=3.11 .venv; \
uv pip install --quiet --python=.venv -r requirements-tpu.txt -c constraints.txt"
}

train() {
  need DATA
  ((${#REST[@]})) || die "no training flags. Append them: -- --config=... --workdir=gs://..."
  on_all "cd gcn_flax && launch/tpu_worker.sh start $BRING $DATA$(printf ' %q' "${REST[@]}")"
}

# Prints the status of each VM, and returns that of the training: 1 if one VM has 1, 0 if all have 0, otherwise 75.
await_end() {
  [[ -z $DRY_RUN ]] || { on_all "gcn_flax/launch/tpu_worker.sh status" && return 0; }
  local now statuses
  while true; do
    now=$(state)
    [[ $now == ACTIVE ]] || { echo "$NAME is ${now:-gone}" && return 75; }
    statuses=$(on_all "gcn_flax/launch/tpu_worker.sh status" 2>/dev/null | sort | uniq -c || true)
    echo "$(date +%T) $(tr -s ' \n' ' ' <<<"$statuses")"
    if [[ -n $statuses ]] && ! grep -q running <<<"$statuses"; then
      grep -qE ' 1$' <<<"$statuses" && return 1
      grep -qvE ' 0$' <<<"$statuses" && return 75
      return 0
    fi
    sleep 60
  done
}

fetch() {
  run mkdir -p "$OUTPUT"
  local count=1 worker
  [[ -n $DRY_RUN ]] ||
    count=$(gcloud compute tpus tpu-vm describe "$NAME" --project="$PROJECT" --zone="$ZONE" \
      --format='value(networkEndpoints.len())')
  for ((worker = 0; worker < count; worker++)); do
    run gcloud compute tpus tpu-vm scp "$NAME:gcn_flax.log" "$OUTPUT/slice$SLICE-worker$worker.log" \
      --project="$PROJECT" --zone="$ZONE" --worker="$worker"
  done
}

delete() { tpus queued-resources delete --force --quiet; }

# Installs, trains and waits; returns the status of the training, or 75 if the slice was lost.
attempt() {
  local status=0
  # In a separate process, because `set -e` has no effect in a function whose status is tested.
  local self=$ROOT/launch/tpu_vm.sh
  if ! { "$self" install "${COMMON[@]}" && "$self" run "${COMMON[@]}" -- "${REST[@]}"; }; then
    [[ $(state) == ACTIVE ]] || return 75
    die "setup failed. The slice still exists and costs money. Delete it: launch/tpu_vm.sh delete ${COMMON[*]}"
  fi
  await_end || status=$?
  return "$status"
}

up() {
  local status
  COMMON=("$NAME" --project="$PROJECT" --zone="$ZONE" --data="${DATA:-}" --bring="$BRING" ${DRY_RUN:+--dry_run})
  for ((SLICE = 0; SLICE <= RESTARTS; SLICE++)); do
    create
    status=0
    attempt || status=$?
    [[ -z $DRY_RUN && $(state) != ACTIVE ]] || fetch || echo "could not fetch the logs" >&2
    delete
    ((status == 75)) || exit "$status"
    echo "slice $SLICE was preempted or its training stopped: continuing from the newest checkpoint on a new slice"
    until [[ -z $(state) ]]; do sleep 10; done
  done
  die "training did not finish on $((RESTARTS + 1)) slices. See $OUTPUT; repeat the command to continue"
}

BRING=mount OUTPUT='' SPOT='' RESTARTS=50 SLICE=0
parse "project zone type runtime spot data bring output restarts" "$@"
((${#WORDS[@]} == 2)) || usage 1 >&2
NAME=${WORDS[1]}
OUTPUT=${OUTPUT:-runs/$NAME}
need PROJECT ZONE
[[ $BRING == mount || $BRING == stage ]] || die "--bring=$BRING: must be mount or stage"
case ${WORDS[0]} in
  create | install | fetch | delete | up) "${WORDS[0]}" ;;
  run) train ;;
  wait) await_end ;;
  logs) on_all "tail -n 30 gcn_flax.log" ;;
  *) die "${WORDS[0]}: unknown command. Choose from: up create install run wait logs fetch delete" ;;
esac

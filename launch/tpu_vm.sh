#!/usr/bin/env bash
# Trains on a Cloud TPU slice, of one VM or of many, and makes a new one where a spot slice is taken away.
#
#   launch/tpu_vm.sh up NAME --project=P --zone=Z --type=v5litepod-16 --data=gs://BUCKET/DATA [--spot=1] \
#     [--restarts=50] -- FLAGS
#
# FLAGS are those of the training, with a workdir in a bucket: --config=configs/cityscapes.py --workdir=gs://BUCKET/RUN.
# `up` is the words below, one after the other, and again on a new slice, --restarts times, until the training has ended:
#
#   create   queues a request for the slice and waits until it is there
#   install  copies this checkout to all its VMs and installs what it needs
#   run      brings the data to each VM (launch/data.sh, --bring=mount or stage) and starts the training there as a
#            systemd service (launch/tpu_worker.sh), which gets a SIGTERM and time to save when Cloud announces
#            maintenance or preemption, and before the VM is switched off
#   wait     until the training has ended on all VMs, or the slice is gone; its exit status is the training's, or 75
#   logs     the last lines of every VM's log
#   fetch    copies the log of every VM to --output (runs/NAME)
#   delete   the slice and its request
#
# --type: as gcloud's --accelerator-type. --runtime: the VM's image, else the usual one of the type. --dry_run prints the
# commands instead. TPU7x is not made by this API: take launch/gke.sh.
source "$(dirname "$0")/common.sh"

# The image that Google names for each generation (docs.cloud.google.com/tpu/docs/runtimes).
runtime_of() {
  case $1 in
    v2-* | v3-* | v4-*) echo tpu-ubuntu2204-base ;;
    v5litepod-*) echo v2-alpha-tpuv5-lite ;;
    v5p-*) echo v2-alpha-tpuv5 ;;
    v6e-*) echo v2-alpha-tpuv6e ;;
    *) die "--type=$1 is unknown: v2-8, v3-8, v4-8, v5litepod-8, v5p-8, v6e-8 and so on" ;;
  esac
}

tpus() {
  local group=$1 verb=$2
  shift 2
  run gcloud compute tpus "$group" "$verb" "$NAME" --project="$PROJECT" --zone="$ZONE" "$@"
}

on_all() { tpus tpu-vm ssh --worker=all --command="$1"; }

# The state of the request; nothing where there is none, and in a dry run.
state() { [[ -n $DRY_RUN ]] || tpus queued-resources describe --format='value(state.state)' 2>/dev/null || true; }

create() {
  need TYPE
  local runtime now=
  runtime=${RUNTIME:-$(runtime_of "$TYPE")} || exit 1
  # Given again, it goes on waiting for the request that is there.
  [[ -n $(state) ]] || tpus queued-resources create --node-id="$NAME" --accelerator-type="$TYPE" \
    --runtime-version="$runtime" ${SPOT:+--spot} --async
  [[ -z $DRY_RUN ]] || return 0
  until [[ $now == ACTIVE ]]; do
    now=$(state)
    echo "$(date +%T) $NAME: ${now:-not known yet}"
    [[ $now != FAILED && $now != SUSPENDED ]] || die "$NAME is $now: launch/tpu_vm.sh delete $NAME, and create it again"
    [[ $now == ACTIVE ]] || sleep 30
  done
}

install() {
  local archive bring=
  # Records are read through gcsfuse (cloud.google.com/storage/docs/cloud-storage-fuse/install); staging needs none.
  [[ $BRING == stage ]] || bring="command -v gcsfuse >/dev/null || { \
curl -fsSL https://packages.cloud.google.com/apt/doc/apt-key.gpg | sudo tee /usr/share/keyrings/cloud.google.asc >/dev/null; \
echo deb [signed-by=/usr/share/keyrings/cloud.google.asc] https://packages.cloud.google.com/apt \
gcsfuse-\$(lsb_release -c -s) main | sudo tee /etc/apt/sources.list.d/gcsfuse.list >/dev/null; \
sudo apt-get update -qq; sudo apt-get install -qqy gcsfuse; }; "
  archive=$(mktemp -d)/gcn_flax.tar.gz
  run git -C "$ROOT" archive --format=tar.gz --prefix=gcn_flax/ --output="$archive" HEAD
  run gcloud compute tpus tpu-vm scp "$archive" "$NAME:gcn_flax.tar.gz" --project="$PROJECT" --zone="$ZONE" --worker=all
  # The images have Python 3.10; uv brings another one.
  on_all "set -e; ${bring}tar -xzf gcn_flax.tar.gz; cd gcn_flax; python3 -m pip install --quiet --user uv; \
export PATH=\$HOME/.local/bin:\$PATH; uv venv --quiet --allow-existing --python=3.11 .venv; \
uv pip install --quiet --python=.venv -r requirements-tpu.txt -c constraints.txt"
}

train() {
  need DATA
  ((${#REST[@]})) || die "the flags of the training are missing: ... -- --config=... --workdir=gs://..."
  on_all "cd gcn_flax && launch/tpu_worker.sh start $BRING $DATA$(printf ' %q' "${REST[@]}")"
}

# Prints each VM's status, and returns the training's: 1 where one VM has it, 0 where all have, 75 for anything else.
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
    run gcloud compute tpus tpu-vm scp "$NAME:gcn_flax.log" "$OUTPUT/slice$SLICE-worker$worker.log" --project="$PROJECT" \
      --zone="$ZONE" --worker="$worker"
  done
}

delete() { tpus queued-resources delete --force --quiet; }

# Installs, trains and waits; returns the training's status, 75 where the slice went away meanwhile.
attempt() {
  local status=0
  # In a process of its own: `set -e` does not hold in a function whose status is asked for.
  if ! { "$ROOT/launch/tpu_vm.sh" install "${SAME[@]}" && "$ROOT/launch/tpu_vm.sh" run "${SAME[@]}" -- "${REST[@]}"; }; then
    [[ $(state) == ACTIVE ]] || return 75
    die "the slice could not be set up. It is still there and costs money: launch/tpu_vm.sh delete ${SAME[*]}"
  fi
  await_end || status=$?
  return "$status"
}

up() {
  local status
  SAME=("$NAME" --project="$PROJECT" --zone="$ZONE" --data="${DATA:-}" --bring="$BRING" ${DRY_RUN:+--dry_run})
  for ((SLICE = 0; SLICE <= RESTARTS; SLICE++)); do
    create
    status=0
    attempt || status=$?
    [[ -z $DRY_RUN && $(state) != ACTIVE ]] || fetch || echo "the logs could not be fetched" >&2
    delete
    ((status == 75)) || exit "$status"
    echo "slice $SLICE was taken away, or its training was stopped: another one goes on from the newest checkpoint"
    until [[ -z $(state) ]]; do sleep 10; done
  done
  die "$((RESTARTS + 1)) slices did not come to the end: see $OUTPUT, and give the same command to go on"
}

BRING=mount OUTPUT='' SPOT='' RESTARTS=50 SLICE=0
parse "project zone type runtime spot data bring output restarts" "$@"
((${#WORDS[@]} == 2)) || usage 1 >&2
NAME=${WORDS[1]}
OUTPUT=${OUTPUT:-runs/$NAME}
need PROJECT ZONE
[[ $BRING == mount || $BRING == stage ]] || die "--bring=$BRING must be mount or stage"
case ${WORDS[0]} in
  create | install | fetch | delete | up) "${WORDS[0]}" ;;
  run) train ;;
  wait) await_end ;;
  logs) on_all "tail -n 30 gcn_flax.log" ;;
  *) die "${WORDS[0]} is unknown; there are: up create install run wait logs fetch delete" ;;
esac

#!/usr/bin/env bash
# Trains on TPUs in Google Kubernetes Engine (GKE), using xpk (pip install xpk).
#
#   launch/gke.sh cluster --cluster=C --project=P --zone=Z --type=v6e-16 [--spot=1]
#   launch/gke.sh data    --cluster=C --project=P --zone=Z --data=gs://BUCKET/DATA
#   launch/gke.sh image   --image=REGION-docker.pkg.dev/P/REPOSITORY/gcn_flax
#   launch/gke.sh submit NAME --cluster=C --project=P --zone=Z --type=v6e-16 --image=IMAGE [--restarts=50] -- FLAGS
#   launch/gke.sh list|logs|delete [NAME] --cluster=C --project=P --zone=Z
#
# cluster: creates a cluster with one slice of this type and the gcsfuse driver
# data:    mounts the bucket as /data in every pod, with the volume in launch/gke_data.yaml
# image:   builds launch/docker/tpu.Dockerfile from this checkout and pushes it
# submit:  starts training. FLAGS are those of gcn_flax.main, with a workdir in a bucket that the pods' service account
#          (xpk-sa) can write to. Training restarts after exit status 75 (stopped by a signal) and after a lost node, up
#          to --restarts times in all, but not after status 1.
# --dry_run prints the commands instead of running them.
source "$(dirname "$0")/common.sh"

on_cluster() { run xpk "$@" --cluster="$CLUSTER" --project="$PROJECT" --zone="$ZONE"; }

cluster() {
  need TYPE
  on_cluster cluster create --tpu-type="$TYPE" --num-slices=1 --enable-gcsfuse-csi-driver ${SPOT:+--spot} --quiet
}

data() {
  need DATA
  [[ $DATA == gs://?*/?* ]] || die "--data=$DATA: must be gs://BUCKET/PREFIX"
  local path=${DATA#gs://} manifest
  manifest=$(mktemp -d)/gke_data.yaml
  sed -e "s|BUCKET|${path%%/*}|" -e "s|PREFIX|${path#*/}|" "$ROOT/launch/gke_data.yaml" >"$manifest"
  on_cluster storage attach gcn-flax-data --type=gcsfuse --mount-point=/data --readonly=true --auto-mount=false \
    --manifest="$manifest"
}

image() {
  need IMAGE
  run docker build --file="$ROOT/launch/docker/tpu.Dockerfile" --tag="$IMAGE" "$ROOT"
  run docker push "$IMAGE"
}

submit() {
  need TYPE IMAGE
  ((${#REST[@]})) || die "no training flags. Append them: -- --config=... --workdir=gs://..."
  on_cluster workload create --workload="$NAME" --tpu-type="$TYPE" --num-slices=1 --docker-image="$IMAGE" \
    --storage=gcn-flax-data --max-restarts="$RESTARTS" --restart-on-exit-codes=75 \
    --termination-grace-period-seconds=120 \
    --command="exec python -m gcn_flax.main$(printf ' %q' "${REST[@]}" --config.data.data_dir=/data)"
}

RESTARTS=50 SPOT=''
parse "cluster project zone type spot data image restarts" "$@"
NAME=${WORDS[1]:-}
case ${WORDS[0]:-} in
  image) image ;;
  cluster | data) need CLUSTER PROJECT ZONE && "${WORDS[0]}" ;;
  list) need CLUSTER PROJECT ZONE && on_cluster workload list ;;
  submit | logs | delete)
    need CLUSTER PROJECT ZONE
    [[ -n $NAME ]] || die "${WORDS[0]}: NAME of the training is missing"
    case ${WORDS[0]} in
      submit) submit ;;
      logs)
        run gcloud container clusters get-credentials "$CLUSTER" --project="$PROJECT" --location="$ZONE"
        run kubectl logs --selector="xpk.google.com/workload=$NAME" --all-containers --prefix --tail=30
        ;;
      delete) on_cluster workload delete --workload="$NAME" --quiet ;;
    esac
    ;;
  *) usage 1 >&2 ;;
esac

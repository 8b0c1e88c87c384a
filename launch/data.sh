#!/usr/bin/env bash
# Makes a prepared data set in a bucket available on this host. Records can only be read from local paths
# (google/array_record#120).
#
#   launch/data.sh mount gs://BUCKET/PREFIX DIR [--cache=DIR] [--dry_run]
#   launch/data.sh stage gs://BUCKET/PREFIX DIR [--dry_run]
#
# mount: mounts the bucket with gcsfuse. Each file is cached in --cache (default: /tmp/gcsfuse) on first access, because
#        records are read at random and without a cache every read is a request. The disk must hold the data set.
# stage: copies the data set with gcloud storage. Repeat the command to copy what is missing or has changed.
#
# Use DIR as config.data.data_dir.
source "$(dirname "$0")/common.sh"

mount_bucket() {
  local bucket=${1%%/*} prefix=
  [[ $1 == */* ]] && prefix=${1#*/}
  if mountpoint -q "$2"; then
    echo "$2 is already mounted"
    return
  fi
  [[ -n $DRY_RUN ]] || command -v gcsfuse >/dev/null ||
    die "gcsfuse is not installed. See https://cloud.google.com/storage/docs/cloud-storage-fuse/install"
  run mkdir -p "$2" "$CACHE"
  run gcsfuse -o ro --implicit-dirs ${prefix:+--only-dir="${prefix%/}"} \
    --cache-dir="$CACHE" --file-cache-max-size-mb=-1 --file-cache-cache-file-for-range-read \
    --metadata-cache-ttl-secs=-1 --stat-cache-max-size-mb=-1 --type-cache-max-size-mb=-1 "$bucket" "$2"
}

stage_bucket() {
  run mkdir -p "$2"
  run gcloud storage rsync --recursive "gs://${1%/}" "$2"
}

CACHE=/tmp/gcsfuse
parse "cache" "$@"
((${#WORDS[@]} == 3)) || usage 1 >&2
[[ ${WORDS[1]} == gs://?* ]] || die "${WORDS[1]}: must be gs://BUCKET/PREFIX"
case ${WORDS[0]} in
  mount) mount_bucket "${WORDS[1]#gs://}" "${WORDS[2]}" ;;
  stage) stage_bucket "${WORDS[1]#gs://}" "${WORDS[2]}" ;;
  *) die "${WORDS[0]}: unknown command. Choose from: mount stage" ;;
esac

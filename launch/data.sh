#!/usr/bin/env bash
# Brings a prepared data set from a bucket to this host, because records are read from local paths only
# (google/array_record#120).
#
#   launch/data.sh mount gs://BUCKET/PREFIX DIR [--cache=DIR] [--dry_run]
#   launch/data.sh stage gs://BUCKET/PREFIX DIR [--dry_run]
#
# mount: by gcsfuse, with every file kept in --cache (/tmp/gcsfuse unless told) once it was touched: records are read at
#        random, and without a cache each read is a request. The cache's disk must hold the data set.
# stage: copied once by gcloud storage, with progress; given again, only what is missing or changed.
#
# DIR is then config.data.data_dir.
source "$(dirname "$0")/common.sh"

mount_bucket() {
  local bucket=${1%%/*} prefix=
  [[ $1 == */* ]] && prefix=${1#*/}
  if mountpoint -q "$2"; then
    echo "$2 is mounted already"
    return
  fi
  [[ -n $DRY_RUN ]] || command -v gcsfuse >/dev/null ||
    die "gcsfuse is not installed: see https://cloud.google.com/storage/docs/cloud-storage-fuse/install"
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
[[ ${WORDS[1]} == gs://?* ]] || die "${WORDS[1]} must be gs://BUCKET/PREFIX"
case ${WORDS[0]} in
  mount) mount_bucket "${WORDS[1]#gs://}" "${WORDS[2]}" ;;
  stage) stage_bucket "${WORDS[1]#gs://}" "${WORDS[2]}" ;;
  *) die "${WORDS[0]} is unknown; there are: mount stage" ;;
esac

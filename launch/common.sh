# Functions shared by the launchers; source this file from bash.
# shellcheck shell=bash

set -euo pipefail
# shellcheck disable=SC2034 # Used by the launchers.
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
DRY_RUN=

die() {
  echo "error: $*" >&2
  exit 1
}

# Prints the comment at the top of the launcher.
usage() {
  sed -n '2,/^[^#]/{/^#/!d;s/^# \{0,1\}//;p}' "$0"
  exit "${1:-0}"
}

# parse "NAMES" ARGUMENTS...: sets NAME from each --name=value in NAMES, DRY_RUN from --dry_run, WORDS from positional
# arguments, and REST from everything after --.
parse() {
  local known=" $1 " name
  local -a names
  read -ra names <<<"$1"
  shift
  WORDS=() REST=()
  while (($#)); do
    case $1 in
      --) shift && REST=("$@") && return ;;
      --help) usage ;;
      --dry_run) DRY_RUN=1 ;;
      --*=*)
        name=${1%%=*} && name=${name#--}
        [[ $known == *" $name "* ]] ||
          die "--$name: unknown flag. Choose from:$(printf ' --%s=' "${names[@]}") --dry_run"
        declare -g "${name^^}=${1#*=}"
        ;;
      --*) die "$1: needs a value, $1=..." ;;
      *) WORDS+=("$1") ;;
    esac
    shift
  done
}

# need NAMES...: stops if one of these flags is missing.
need() {
  local name
  for name in "$@"; do
    [[ -n ${!name:-} ]] || die "--${name,,}= is missing; see --help"
  done
}

# await PID: waits until a child process has ended and returns its exit status, also if a signal interrupts `wait`.
await() {
  local status=0
  wait "$1" || status=$?
  while kill -0 "$1" 2>/dev/null; do
    status=0
    wait "$1" || status=$?
  done
  return "$status"
}

# Runs a command, or with --dry_run prints it, quoted for pasting.
run() {
  if [[ -n $DRY_RUN ]]; then
    printf '%q ' "$@"
    echo
  else
    "$@"
  fi
}

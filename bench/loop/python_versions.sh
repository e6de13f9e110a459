#!/usr/bin/env bash
# Demo and tests on every supported Python, each in a clone of the last commit with a separate environment.
#
#   bench/loop/python_versions.sh            make demo and make test on 3.11, 3.12 and 3.13
#   bench/loop/python_versions.sh --other    the quick demo on one Python other than that of .venv (used by .ci/run)
#
# Everything is written to var/pythons. Parts that passed at this commit are not run again, so an interrupted run can
# continue. A Python that is not installed is reported and skipped: nothing is downloaded.
set -euo pipefail
cd "$(dirname "$0")/../.."
root=$PWD
commit=$(git rev-parse HEAD)
skipped=()

find_interpreter() { # VERSION: print a usable interpreter of this version, or nothing
  local candidate
  for candidate in "$(command -v "python$1" || true)" "${PYENV_ROOT:-${HOME:-}/.pyenv}/versions/$1".*/bin/python; do
    if [ -x "$candidate" ] && "$candidate" -c "import ensurepip, sys, venv; sys.exit(f'{sys.version_info[0]}.{sys.version_info[1]}' != '$1')" 2>/dev/null; then
      echo "$candidate"
      return
    fi
  done
}

clone() { # VERSION: make a clean clone of this commit
  local clone_folder="$root/var/pythons/$1"
  [ -d "$clone_folder/.git" ] || git clone -q "$root" "$clone_folder"
  git -C "$clone_folder" fetch -q origin "$commit" 2>/dev/null || git -C "$clone_folder" fetch -q
  git -C "$clone_folder" checkout -q --force --detach "$commit"
}

run_part() { # VERSION NAME COMMAND...: run it in the clone, unless it passed at this commit before
  local version=$1 name=$2 log="$root/var/pythons/$1.$2.log" mark="$root/var/pythons/$1.$2.$commit"
  shift 2
  if [ -e "$mark" ]; then
    echo "python $version: $name passed before, at this commit"
    return
  fi
  local start=$SECONDS
  if (cd "$root/var/pythons/$version" && "$@") >"$log" 2>&1; then
    touch "$mark"
    echo "python $version: $name passed in $((SECONDS - start)) s"
  else
    echo "python $version: $name FAILED after $((SECONDS - start)) s; $log ends with:"
    tail -n 30 "$log"
    return 1
  fi
}

quick_demo() { # run a demo with few patients: its gates may have any outcome, but it must finish
  local code=0
  .venv/bin/oncoloop demo --quick || code=$?
  [ "$code" = 0 ] || [ "$code" = 3 ] || [ "$code" = 4 ]
}

mkdir -p var/pythons
versions=(3.11 3.12 3.13)
if [ "${1:-}" = --other ]; then
  own_version=$(.venv/bin/python -c 'import sys; print(f"{sys.version_info[0]}.{sys.version_info[1]}")')
  versions=(3.13 3.12 3.11)
fi
is_one_done=no
failed=0
for version in "${versions[@]}"; do
  if [ "${1:-}" = --other ] && { [ "$version" = "$own_version" ] || [ "$is_one_done" = yes ]; }; then
    continue
  fi
  python=$(find_interpreter "$version")
  if [ -z "$python" ]; then
    skipped+=("python $version: SKIPPED, no python$version with venv on PATH or in ~/.pyenv/versions")
    continue
  fi
  is_one_done=yes
  clone "$version"
  run_part "$version" install make install PYTHON="$python" || { failed=1; continue; }
  if [ "${1:-}" = --other ]; then
    run_part "$version" quick-demo quick_demo || failed=1
  else
    run_part "$version" demo make demo || failed=1
    run_part "$version" test make test || failed=1
  fi
done
for line in ${skipped[@]+"${skipped[@]}"}; do echo "$line"; done
exit "$failed"

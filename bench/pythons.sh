#!/usr/bin/env bash
# The demo and the tests on every supported Python, each in a clone of the last commit with an environment of its own.
#
#   bench/pythons.sh            make demo and make test on 3.11, 3.12 and 3.13
#   bench/pythons.sh --other    the quick demo on one Python that .venv does not have (what .ci/run asks)
#
# Everything lies in var/pythons. What passed at this commit is not run again, so an interrupted run goes on. A Python
# that is not installed is named and skipped: nothing is downloaded.
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD
commit=$(git rev-parse HEAD)
skipped=()

interpreter() { # VERSION: a usable interpreter of that version, or nothing
  local candidate
  for candidate in "$(command -v "python$1" || true)" "${PYENV_ROOT:-${HOME:-}/.pyenv}/versions/$1".*/bin/python; do
    if [ -x "$candidate" ] && "$candidate" -c "import ensurepip, sys, venv; sys.exit(f'{sys.version_info[0]}.{sys.version_info[1]}' != '$1')" 2>/dev/null; then
      echo "$candidate"
      return
    fi
  done
}

clone() { # VERSION: a clean clone of this commit
  local place="$root/var/pythons/$1"
  [ -d "$place/.git" ] || git clone -q "$root" "$place"
  git -C "$place" fetch -q origin "$commit" 2>/dev/null || git -C "$place" fetch -q
  git -C "$place" checkout -q --force --detach "$commit"
}

part() { # VERSION NAME COMMAND...: run it in the clone, unless it passed at this commit before
  local version=$1 name=$2 log="$root/var/pythons/$1.$2.log" mark="$root/var/pythons/$1.$2.$commit"
  shift 2
  if [ -e "$mark" ]; then
    echo "python $version: $name passed before, at this commit"
    return
  fi
  local began=$SECONDS
  if (cd "$root/var/pythons/$version" && "$@") >"$log" 2>&1; then
    touch "$mark"
    echo "python $version: $name passed in $((SECONDS - began)) s"
  else
    echo "python $version: $name FAILED after $((SECONDS - began)) s; $log ends with:"
    tail -n 30 "$log"
    return 1
  fi
}

quick_demo() { # a demo of few patients: its gates may say anything, but the story has to end
  local code=0
  .venv/bin/oncoloop demo --quick || code=$?
  [ "$code" = 0 ] || [ "$code" = 3 ] || [ "$code" = 4 ]
}

mkdir -p var/pythons
versions=(3.11 3.12 3.13)
if [ "${1:-}" = --other ]; then
  own=$(.venv/bin/python -c 'import sys; print(f"{sys.version_info[0]}.{sys.version_info[1]}")')
  versions=(3.13 3.12 3.11)
fi
done_one=no
failed=0
for version in "${versions[@]}"; do
  if [ "${1:-}" = --other ] && { [ "$version" = "$own" ] || [ "$done_one" = yes ]; }; then
    continue
  fi
  python=$(interpreter "$version")
  if [ -z "$python" ]; then
    skipped+=("python $version: SKIPPED, there is no python$version with venv on PATH or in ~/.pyenv/versions")
    continue
  fi
  done_one=yes
  clone "$version"
  part "$version" install make install PYTHON="$python" || { failed=1; continue; }
  if [ "${1:-}" = --other ]; then
    part "$version" quick-demo quick_demo || failed=1
  else
    part "$version" demo make demo || failed=1
    part "$version" test make test || failed=1
  fi
done
for line in ${skipped[@]+"${skipped[@]}"}; do echo "$line"; done
exit "$failed"

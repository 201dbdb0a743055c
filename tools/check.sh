#!/usr/bin/env bash
# What a review would look at first: format, includes, the command table, clang-tidy.
#
#   tools/check.sh [BASE]    clang-tidy reads the .cc files changed since BASE (default: the commit
#                            before HEAD, and what is not committed); the rest reads everything
#   tools/check.sh --all     clang-tidy reads all of them
#
# clang-tidy needs a configured build with compile_commands.json: BUILD_DIR, default build/debug.
# A missing tool is said and counts as skipped. Exit code 1 if anything was found.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
build_directory="${BUILD_DIR:-build/debug}"
status=0
heading() { printf -- '--- %s\n' "$*"; }

heading "format"
if command -v clang-format >/dev/null; then
  git ls-files '*.cc' '*.h' '*.c' | xargs -r clang-format --dry-run -Werror || status=1
else
  echo "SKIP: clang-format is not installed"
fi

heading "layering"
tools/check_layering.py || status=1

heading "command table"
python3 tools/gen_command_table.py --check
case $? in
  0) ;;
  77) echo "SKIP: a server is not installed; what could be checked is right" ;;
  *) status=1 ;;
esac

heading "clang-tidy"
if ! command -v clang-tidy >/dev/null; then
  echo "SKIP: clang-tidy is not installed"
elif [ ! -f "$build_directory/compile_commands.json" ]; then
  echo "SKIP: no $build_directory/compile_commands.json; cmake --preset debug makes it"
else
  if [ "${1:-}" = --all ]; then
    files="$(git ls-files '*.cc')"
  else
    files="$( { git diff --name-only --diff-filter=d "${1:-HEAD~1}" -- '*.cc'
                git ls-files --others --exclude-standard -- '*.cc'; } | sort -u)"
  fi
  for file in $files; do
    # Only what is compiled with this build can be read.
    grep -qF "/$file\"" "$build_directory/compile_commands.json" || continue
    printf '%s\0' "$file"
  done | xargs -0 -r -n 1 -P "$(nproc)" \
    clang-tidy -p "$build_directory" --quiet --warnings-as-errors='*' 2>/dev/null || status=1
fi

[ "$status" = 0 ] && echo "clean"
exit "$status"

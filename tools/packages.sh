# Installs what building, running and testing need. Sourced by tools/quickstart and tools/test.
#
#   install_packages NAME…    Debian packages; does nothing where all are there
#   install_valkey            valkey-server, from the backports where the release has none
#   fetch_valkey_9 DIR        a newer valkey-server, unpacked into DIR; the system has nothing of it
#   install_node_packages DIR the client libraries and applications of tools/apps, into DIR
#   install_python_applications   Celery and RQ, which tools/apps runs
#
# But for the packages, all are optional: where they cannot be had they say so and return 1.

packages_root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"

build_packages=(
  cmake ninja-build g++ pkg-config
  liburing-dev libabsl-dev libspdlog-dev libtomlplusplus-dev libcpp-httplib-dev
  prometheus-cpp-dev libssl-dev
  libgtest-dev libgmock-dev libbenchmark-dev
)
run_packages=(redis-server redis-tools python3 procps)
test_packages=(python3-redis spin)

say() { printf '%s: %s\n' "${0##*/}" "$*"; }
fail() { printf '%s: %s\n' "${0##*/}" "$*" >&2; exit 1; }

as_root() {
  if [ "$(id -u)" = 0 ]; then
    "$@"
  elif command -v sudo >/dev/null; then
    sudo "$@"
  else
    return 126
  fi
}

is_installed() {
  [ "$(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null)" = installed ]
}

missing_packages() {
  local name
  for name in "$@"; do
    is_installed "$name" || printf '%s\n' "$name"
  done
}

# Runs a command; its output is shown only if it fails.
quietly() {
  local output status=0
  output="$(mktemp)"
  "$@" >"$output" 2>&1 </dev/null || status=$?
  [ "$status" = 0 ] || tail -n 40 "$output" >&2
  rm -f "$output"
  return "$status"
}

apt_get() {
  quietly as_root env DEBIAN_FRONTEND=noninteractive apt-get -q -y -o Dpkg::Use-Pty=0 \
    -o Acquire::Retries=3 -o DPkg::Lock::Timeout=300 "$@"
}

# Runs an installing command while packages may not start services, then makes sure that a server
# which came just now does not start at the next boot either. One that was there before is let be.
without_services() {
  local new_servers=() name policy=/usr/sbin/policy-rc.d made_policy=no status=0
  for name in redis-server valkey-server; do
    is_installed "$name" || new_servers+=("$name")
  done
  if [ ! -e "$policy" ] && [ "${#new_servers[@]}" -gt 0 ]; then
    if printf '#!/bin/sh\nexit 101\n' | as_root tee "$policy" >/dev/null; then
      as_root chmod 755 "$policy"
      made_policy=yes
      # Also when the shell is interrupted: no other package may find it later.
      trap 'as_root rm -f /usr/sbin/policy-rc.d' EXIT
    fi
  fi
  "$@" || status=$?
  if [ "$made_policy" = yes ]; then
    as_root rm -f "$policy"
    trap - EXIT
  fi
  for name in "${new_servers[@]}"; do
    is_installed "$name" || continue
    if [ -d /run/systemd/system ]; then
      as_root systemctl disable --quiet --now "$name" 2>/dev/null || true
    elif [ -x "/etc/init.d/$name" ]; then
      as_root "/etc/init.d/$name" stop >/dev/null 2>&1 || true
      as_root update-rc.d "$name" disable >/dev/null 2>&1 || true
    fi
  done
  return "$status"
}

install_packages() {
  local missing
  mapfile -t missing < <(missing_packages "$@")
  [ "${#missing[@]}" -gt 0 ] || return 0
  command -v apt-get >/dev/null || fail "not a Debian system; install these by hand: ${missing[*]}"
  if [ "$(id -u)" != 0 ] && ! command -v sudo >/dev/null; then
    fail "to install ${missing[*]}, run it as root once"
  fi
  say "installing ${missing[*]}"
  apt_get update || fail "apt-get update failed"
  without_services apt_get install --no-install-recommends "${missing[@]}" ||
    fail "apt-get could not install ${missing[*]}"
}

install_valkey() {
  command -v valkey-server >/dev/null && return 0
  command -v apt-get >/dev/null || { say "SKIP valkey: no apt-get"; return 1; }
  if apt-cache policy valkey-server 2>/dev/null | grep 'Candidate: [0-9]' >/dev/null; then
    say "installing valkey-server"
    without_services apt_get install --no-install-recommends valkey-server valkey-tools &&
      return 0
  fi
  # The machine's own sources stay as they are: apt reads a copy with one more file beside it.
  local apt_directory status=0 file source
  apt_directory="$(mktemp -d)" || return 1
  mkdir -p "$apt_directory/parts" "$apt_directory/lists/partial"
  chmod 755 "$apt_directory" "$apt_directory/parts" "$apt_directory/lists"
  for file in /etc/apt/sources.list /etc/apt/sources.list.d/*.list \
      /etc/apt/sources.list.d/*.sources; do
    [ -e "$file" ] && cp "$file" "$apt_directory/parts/"
  done
  # apt takes a file for one-line entries only by this name.
  source="$apt_directory/parts/rcproxy-backports.sources"
  local options=(-o Dir::Etc::sourcelist=/dev/null -o "Dir::Etc::sourceparts=$apt_directory/parts"
    -o "Dir::State::lists=$apt_directory/lists")
  if ! "$packages_root/tools/debian_source.py" >"$source"; then
    say "SKIP valkey: no backports source can be derived"
    status=1
  elif ! apt_get "${options[@]}" update ||
      ! apt-cache "${options[@]}" policy valkey-server | grep 'Candidate: [0-9]' >/dev/null; then
    say "SKIP valkey: the backports of this machine's mirror have no valkey-server"
    status=1
  else
    say "installing valkey-server from the backports"
    if ! without_services apt_get "${options[@]}" install --no-install-recommends \
        -t "$(sed -n 's/^Suites: //p' "$source")" valkey-server valkey-tools; then
      say "SKIP valkey: apt-get could not install it"
      status=1
    fi
  fi
  rm -rf "$apt_directory"
  return "$status"
}

# Its clusters may have several databases. Only Debian's unstable branch has it, so it comes with its
# own libraries, down to the C library, and a script that runs it with these.
fetch_valkey_9() {
  local directory="$1" apt_directory status=1 file
  "$directory/valkey-server" --version 2>/dev/null | grep 'v=9\.' >/dev/null && return 0
  command -v apt-get >/dev/null || { say "SKIP valkey 9: no apt-get"; return 1; }
  apt_directory="$(mktemp -d)" || return 1
  mkdir -p "$apt_directory/parts" "$apt_directory/lists/partial" "$apt_directory/archives/partial"
  chmod 755 "$apt_directory" "$apt_directory"/*
  : >"$apt_directory/status"
  local options=(-o Dir::Etc::sourcelist=/dev/null -o "Dir::Etc::sourceparts=$apt_directory/parts"
    -o "Dir::State::lists=$apt_directory/lists" -o "Dir::State::status=$apt_directory/status"
    -o "Dir::Cache=$apt_directory" -o "Dir::Cache::archives=$apt_directory/archives"
    -o APT::Sandbox::User=root -o Acquire::Retries=3
    # Signed all the same; a mirror may lag behind.
    -o Acquire::Check-Valid-Until=false)
  say "fetching valkey 9"
  if ! "$packages_root/tools/debian_source.py" --suite sid >"$apt_directory/parts/sid.sources" ||
      ! quietly apt-get "${options[@]}" -q update ||
      ! quietly apt-get "${options[@]}" -q -y --no-install-recommends --download-only \
        install valkey-tools; then
    say "SKIP valkey 9: this machine's mirror does not have it"
  else
    rm -rf "$directory"
    mkdir -p "$directory/root"
    for file in "$apt_directory"/archives/*.deb; do
      dpkg-deb -x "$file" "$directory/root"
    done
    # The package's tools are the server under other names.
    cat >"$directory/valkey-server" <<'SCRIPT'
#!/bin/sh
root="$(dirname "$0")/root"
loader="$(echo "$root"/usr/lib/*/ld-linux-*.so.*)"
exec "$loader" --library-path "$(dirname "$loader")" --argv0 valkey-server \
  "$root/usr/bin/valkey-check-rdb" "$@"
SCRIPT
    chmod 755 "$directory/valkey-server"
    if "$directory/valkey-server" --version 2>/dev/null | grep 'v=9\.' >/dev/null; then
      status=0
    else
      say "SKIP valkey 9: what this machine's mirror has does not run here, or is another version"
      rm -rf "$directory"
    fi
  fi
  rm -rf "$apt_directory"
  return "$status"
}

install_node_packages() {
  local directory="$1" manifest="$packages_root/tools/apps"
  if ! command -v node >/dev/null || ! command -v npm >/dev/null; then
    # Not by install_packages: a machine may have Node.js from elsewhere, which Debian's conflicts
    # with, and npm alone brings several hundred packages.
    say "installing nodejs and npm"
    if ! { apt_get update && apt_get install --no-install-recommends nodejs npm; }; then
      say "SKIP applications in Node.js: nodejs and npm cannot be had"
      return 1
    fi
  fi
  mkdir -p "$directory"
  if cmp -s "$manifest/package-lock.json" "$directory/installed-lock.json"; then
    return 0
  fi
  cp "$manifest/package.json" "$manifest/package-lock.json" "$directory/"
  if ! npm ci --prefix "$directory" --ignore-scripts --no-audit --no-fund --loglevel=error; then
    say "SKIP applications in Node.js: npm cannot install them"
    rm -rf "$directory/node_modules"
    return 1
  fi
  cp "$manifest/package-lock.json" "$directory/installed-lock.json"
}

install_python_applications() {
  local missing
  mapfile -t missing < <(missing_packages python3-celery python3-rq python3-hiredis libhiredis0.14)
  [ "${#missing[@]}" -gt 0 ] || return 0
  command -v apt-get >/dev/null || { say "SKIP ${missing[*]}: no apt-get"; return 1; }
  say "installing ${missing[*]}"
  { apt_get update && apt_get install --no-install-recommends "${missing[@]}"; } ||
    { say "SKIP ${missing[*]}: apt-get could not install them"; return 1; }
}

# A second build of the same sources is quick where ccache happens to be there, also in another
# clone: paths within the tree count as relative.
if command -v ccache >/dev/null; then
  export CCACHE_BASEDIR="$packages_root" CCACHE_NOHASHDIR=1
  export CMAKE_CXX_COMPILER_LAUNCHER="${CMAKE_CXX_COMPILER_LAUNCHER:-ccache}"
fi

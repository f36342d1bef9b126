#!/usr/bin/env bash
# Makes .venv hold what pyproject.toml asks for, then runs the command it is given, if any:
#     bash scripts/install.sh [COMMAND [ARGUMENT...]]
# Safe to call every time: it does nothing when nothing has changed. PYTHON selects the interpreter.
# Exit codes: 1 the installation failed, 2 something it needs is missing, 130 interrupted.
set -euo pipefail

root=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P)
venv=$root/.venv
stamp=$venv/.sft-installed
log=$venv/.install.log
min_disk_kib=$((6 * 1000 * 1000)) # 6 GB: torch with its CUDA libraries, and room to unpack them

say() { printf 'install: %s\n' "$*" >&2; }

version_of() { "$1" -I -c 'import platform; print(platform.python_version())' 2>/dev/null; }

is_recent_enough() { "$1" -I -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }

find_python() {
    local candidate
    if [[ -n ${PYTHON:-} ]]; then
        command -v -- "$PYTHON"
        return
    fi
    for candidate in python3.13 python3.12 python3.11 python3; do
        if command -v "$candidate" >/dev/null && is_recent_enough "$candidate"; then
            command -v "$candidate"
            return
        fi
    done
    return 1
}

venv_version() { sed -n 's/^version *= *//p' "$venv/pyvenv.cfg"; }

is_chosen_python() { [[ -z ${PYTHON:-} || "$(version_of "$PYTHON")" == "$(venv_version)" ]]; }

# What an up-to-date installation was made from. A virtual environment cannot be moved, so its
# place counts too.
fingerprint() {
    { sha256sum 2>/dev/null || shasum -a 256; } <"$root/pyproject.toml"
    venv_version
    printf '%s\n' "$venv"
}

is_current() {
    [[ -f $stamp && -x $venv/bin/python && "$(<"$stamp")" == "$(fingerprint)" ]] && is_chosen_python
}

check_machine() {
    local missing=0 free_kib
    if ! python=$(find_python); then
        say "Python >= 3.11 not found (tried ${PYTHON:-python3.13 python3.12 python3.11 python3});" \
            "install one, or set PYTHON=/path/to/python3.11"
        missing=1
    elif ! is_recent_enough "$python"; then
        say "PYTHON=$PYTHON is Python $(version_of "$python" || echo '(does not run)');" \
            "set it to Python >= 3.11, or unset it"
        missing=1
    elif ! "$python" -I -c 'import ensurepip, venv' 2>/dev/null; then
        say "$python has no venv module; install it (Debian, Ubuntu: apt-get install python3-venv)"
        missing=1
    fi
    if ! command -v c++ >/dev/null && ! command -v g++ >/dev/null && ! command -v clang++ >/dev/null; then
        say "no C++ compiler found (tried c++ g++ clang++), and DeepSpeed compiles its optimizers;" \
            "install one (Debian, Ubuntu: apt-get install g++)"
        missing=1
    fi
    free_kib=$(df -Pk -- "$root" | awk 'NR == 2 { print $4 }')
    # An installation that is only brought up to date has most of it already.
    if [[ ! -f $stamp ]] && ((free_kib < min_disk_kib)); then
        say "only $((free_kib / 1000)) MB free on the disk of $root, 6000 MB needed;" \
            "free some, or move the repository to a bigger disk"
        missing=1
    fi
    ((missing == 0)) || exit 2
}

# Runs a command in the background and in a process group of its own, so that a signal reaches us
# at once and the command with all its children can be stopped.
child=
interruptible() {
    local code=0
    set -m
    "$@" &
    child=$!
    set +m
    wait "$child" || code=$?
    child=
    return "$code"
}

stop() {
    trap '' INT TERM HUP
    if [[ -n $child ]]; then
        kill -TERM -- "-$child" 2>/dev/null || true
        wait "$child" 2>/dev/null || true
    fi
    say "interrupted; the next call starts the installation over"
    exit 130
}

# Redirected here and not around `interruptible`, where `stop` would lose its message.
redirected() {
    exec >"$log" 2>&1 </dev/null 9>&-
    exec "$@"
}

logged() {
    if ! interruptible redirected "$@"; then
        cat -- "$log" >&2
        say "failed: $*"
        exit 1
    fi
}

install() {
    local python
    check_machine
    # Made to its end, still runnable, not moved, and of the right Python: else from the start.
    if [[ ! -f $stamp || ! -x $venv/bin/python || "$(tail -n 1 -- "$stamp")" != "$venv" ]] ||
        ! is_chosen_python; then
        say "creating .venv with $python ($(version_of "$python"))"
        # Not `venv --clear`, which would remove the lock that others wait for.
        find "$venv" -mindepth 1 -maxdepth 1 ! -name .install.lock -exec rm -rf -- {} +
        logged "$python" -m venv "$venv"
    fi
    # Without a stamp the next call knows that this one did not get to its end.
    rm -f -- "$stamp"
    say "installing the packages of pyproject.toml into .venv (minutes the first time)"
    cd -- "$root"
    logged "$venv/bin/python" -m pip install --quiet --no-input --disable-pip-version-check -e '.[dev]'
    cd -- "$OLDPWD"
    fingerprint >"$stamp.tmp"
    mv -- "$stamp.tmp" "$stamp"
    say "done"
}

if ! is_current; then
    trap stop INT TERM HUP
    mkdir -p -- "$venv"
    exec 9>"$venv/.install.lock"
    if command -v flock >/dev/null && ! flock -n 9; then
        say "waiting for another installation to end"
        interruptible flock 9
    fi
    if ! is_current; then
        install
    fi
    exec 9>&- # or the command below would hold the lock while it runs
    trap - INT TERM HUP
fi

if (($#)); then
    exec "$@"
fi

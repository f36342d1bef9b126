#!/usr/bin/env bash
# Installs what is missing, then checks format, lint, types and tests; arguments go to pytest.
# --all, as the first argument, adds the tests marked slow.
set -euo pipefail

root=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P)
bash "$root/scripts/install.sh"
cd -- "$root"
selection=(-m "not slow")
if [[ ${1:-} == --all ]]; then
    selection=()
    shift
fi
.venv/bin/ruff format --check
.venv/bin/ruff check
.venv/bin/basedpyright --pythonpath .venv/bin/python
# Empty arrays are unset for bash < 4.4, hence the expansion with "+".
exec .venv/bin/python -m pytest ${selection[@]+"${selection[@]}"} "$@"

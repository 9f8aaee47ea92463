#!/bin/sh
# make_venv.sh DIRECTORY: a virtual environment by the first interpreter that is new enough ($PYTHON, if set) and can.
set -eu

for python in ${PYTHON:-python3 python3.13 python3.12 python3.11 python3.14 python}; do
    if "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
        if "$python" -m venv "$1"; then
            exit 0
        fi
        rm -rf "$1"
        echo "$python cannot make a virtual environment (Debian: apt-get install python3-venv)." >&2
        cannot=yes
    fi
done
if [ -z "${cannot:-}" ]; then
    echo "Python 3.11 or newer is needed and was not found; PYTHON=/path/to/python names one." >&2
fi
exit 1

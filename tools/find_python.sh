# To be sourced: sets PYTHON, where it is not set, to the clone's .venv/bin/python, else to python or python3.

for python in "$(dirname "${BASH_SOURCE[0]}")/../.venv/bin/python" python python3; do
    PYTHON=${PYTHON:-$(command -v "$python")}
done

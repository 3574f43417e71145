# Sourced by each script here: `environment PACKAGE==VERSION...` makes a virtual environment with these public packages
# in a temporary folder, enters both and prints what is installed. The folder goes when the script ends.
# PYTHON names the interpreter (python3); with FINDINGS_ENVIRONMENTS=FOLDER environments stay there for other scripts.
set -euo pipefail

environment() {
  local home
  work=$(mktemp -d)
  trap 'rm -rf "$work"' EXIT
  home=$work/environment
  if [ -n "${FINDINGS_ENVIRONMENTS:-}" ]; then
    home=$FINDINGS_ENVIRONMENTS/$(printf '%s\n' "$@" | sort | cksum | cut -d ' ' -f 1)
  fi
  if [ ! -e "$home/complete" ]; then
    "${PYTHON:-python3}" -m venv "$home"
    "$home/bin/pip" install --quiet --disable-pip-version-check "$@"
    touch "$home/complete"
  fi
  export PATH="$home/bin:$PATH" VIRTUAL_ENV="$home" PYTHONWARNINGS=ignore OMP_NUM_THREADS=2
  export HF_HUB_OFFLINE=1 TRANSFORMERS_VERBOSITY=critical HF_HUB_DISABLE_PROGRESS_BARS=1 TQDM_DISABLE=1
  unset PYTHONPATH PYTHONHOME
  cd "$work"
  python -c 'import platform, sys
from importlib.metadata import version
names = [requirement.split("==")[0] for requirement in sys.argv[1:]]
print("python", platform.python_version(), *(f"{name} {version(name)}" for name in names))' "$@"
}

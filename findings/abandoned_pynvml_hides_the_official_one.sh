#!/usr/bin/env bash
# Expected: of two distributions that both provide `import pynvml`, the one installed last is imported.
# Seen: the abandoned distribution pynvml 11 installs a folder pynvml/, NVIDIA's nvidia-ml-py a file pynvml.py. Python
#   prefers the folder in any order, also after reinstalling nvidia-ml-py; `pip check` finds nothing, and pip's list
#   shows the new version while functions of the old one answer.
. "$(dirname "$0")/_environment.sh"
environment pynvml==11.5.3 nvidia-ml-py==13.615.71
pip install --quiet --disable-pip-version-check --force-reinstall --no-deps nvidia-ml-py==13.615.71
pip check
python - <<'PY'
import ast
from pathlib import Path

import pynvml

folder = Path(pynvml.__file__).parent.parent
module = ast.parse((folder / "pynvml.py").read_text())
official = {node.name for node in module.body if isinstance(node, ast.FunctionDef)}
missing = sorted(name for name in official if name.startswith("nvml") and not hasattr(pynvml, name))
print("imported", Path(pynvml.__file__).relative_to(folder), "version", pynvml.__version__)
print(f"{len(missing)} functions of the official module are missing, such as {', '.join(missing[:3])}")
assert pynvml.__file__.endswith("pynvml/__init__.py"), pynvml.__file__
assert pynvml.__version__ == "11.5.3"
assert len(missing) > 20, len(missing)
PY

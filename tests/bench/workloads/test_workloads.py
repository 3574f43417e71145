"""Every workload, whatever its file: it is checked without torch."""

import subprocess
import sys


def test_checking_a_workload_does_not_import_torch():
    """Configuration is checked before any work: it must be instant."""
    code = (
        "import sys\nfrom bench import registry\n"
        "for module in registry.discover('bench.workloads').values():\n"
        "    module.Settings(), module.check, module.build, module.ASSETS, module.TAKES_REPETITION_RATIO\n"
        "assert 'torch' not in sys.modules and 'transformers' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)

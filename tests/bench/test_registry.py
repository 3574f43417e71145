"""The registry: a file is registered by its name, and a misspelt name is answered with the nearest one."""

import subprocess
import sys

import pytest

from bench import registry


@pytest.fixture
def plugins(tmp_path, monkeypatch):
    """A package with two modules, a helper, and one module that must not be imported for a listing."""
    package = tmp_path / "gram_test_plugins"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "alpha.py").write_text("value = 1\n")
    (package / "beta.py").write_text("value = 2\n")
    (package / "_helper.py").write_text("value = 3\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield package
    for name in [name for name in sys.modules if name.startswith("gram_test_plugins")]:
        del sys.modules[name]


def test_a_new_file_is_registered_and_helpers_are_not(plugins):
    assert registry.names("gram_test_plugins") == ("alpha", "beta")
    (plugins / "gamma.py").write_text("value = 4\n")
    found = registry.names("gram_test_plugins")
    assert {name: registry.load("gram_test_plugins", name).value for name in found} == {
        "alpha": 1,
        "beta": 2,
        "gamma": 4,
    }


def test_names_imports_no_module(plugins):
    (plugins / "broken.py").write_text("raise RuntimeError('imported')\n")
    assert "broken" in registry.names("gram_test_plugins")
    with pytest.raises(RuntimeError, match="imported"):
        registry.load("gram_test_plugins", "broken")


def test_an_unknown_name_is_answered_with_the_nearest(plugins):
    with pytest.raises(ValueError, match=r"'alpa'; did you mean 'alpha'\? valid: alpha, beta"):
        registry.load("gram_test_plugins", "alpa")
    with pytest.raises(registry.UnknownName, match="valid: alpha, beta"):
        registry.check("gram_test_plugins", "_helper")


def test_an_unknown_package_is_an_error():
    with pytest.raises(ModuleNotFoundError, match="gram_no_such_package"):
        registry.names("gram_no_such_package")


def test_listing_encoders_and_checking_workloads_does_not_import_torch():
    """`gram-bench list` and configuration checks must stay instant."""
    code = (
        "import sys\nfrom bench import registry\nregistry.names('bench.encoders')\n"
        "for name in registry.names('bench.workloads'):\n"
        "    module = registry.load('bench.workloads', name)\n"
        "    module.Settings(), module.check, module.build, module.ASSETS, module.TAKES_REPETITION_RATIO\n"
        "assert 'torch' not in sys.modules and 'transformers' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)

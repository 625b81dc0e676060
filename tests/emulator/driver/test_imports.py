"""A function is called when a module has been imported, and the import is as it was else."""

import importlib
import inspect
import sys
import threading

import pytest

from gpubp.emulator.driver import imports


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder of modules that can be imported, with nothing noted before."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(imports, "_actions", {})
    monkeypatch.setattr(sys, "meta_path", [each for each in sys.meta_path if not isinstance(each, imports._Finder)])
    for name in [name for name in sys.modules if name.startswith("imported_")]:
        monkeypatch.delitem(sys.modules, name)
    return tmp_path


def set_seen(module):
    module.seen = [*getattr(module, "seen", []), module.value]


def test_the_module_is_changed_before_it_is_seen(folder):
    (folder / "imported_one.py").write_text("value = 1\n")
    (folder / "imported_two.py").write_text("from imported_one import seen\n")
    imports.after_import("imported_one", set_seen)
    assert importlib.import_module("imported_two").seen == [1]


def test_a_module_that_is_there_is_changed_at_once_and_when_it_is_loaded_again(folder):
    (folder / "imported_three.py").write_text("value = 3\n")
    module = importlib.import_module("imported_three")
    imports.after_import("imported_three", set_seen)
    assert module.seen == [3]
    assert importlib.reload(module).seen == [3, 3]


def test_the_module_keeps_its_loader_and_its_source(folder):
    (folder / "imported_four.py").write_text("value = 4\n")
    imports.after_import("imported_four", set_seen)
    module = importlib.import_module("imported_four")
    assert type(module.__loader__) is type(module.__spec__.loader) is importlib.machinery.SourceFileLoader
    assert inspect.getsource(module) == "value = 4\n"


def test_a_submodule(folder):
    package = folder / "imported_package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "inner.py").write_text("value = 5\n")
    imports.after_import("imported_package.inner", set_seen)
    assert importlib.import_module("imported_package.inner").seen == [5]


def test_a_module_that_is_nowhere(folder):
    imports.after_import("imported_nowhere", set_seen)
    with pytest.raises(ModuleNotFoundError, match="imported_nowhere"):
        importlib.import_module("imported_nowhere")


def test_an_extension_module(folder, monkeypatch):
    loaded = []
    monkeypatch.delitem(sys.modules, "numpy.linalg.lapack_lite", raising=False)
    imports.after_import("numpy.linalg.lapack_lite", loaded.append)
    assert loaded == [importlib.import_module("numpy.linalg.lapack_lite")]


def test_an_error_of_the_action_is_one_of_the_import(folder):
    (folder / "imported_six.py").write_text("value = 6\n")

    def refuse(module):
        raise ImportError(f"{module.__name__} is of no version that is known")

    imports.after_import("imported_six", refuse)
    with pytest.raises(ImportError, match="imported_six is of no version"):
        importlib.import_module("imported_six")
    assert "imported_six" not in sys.modules


def test_another_finder_may_ask_all_finders(folder):
    class Asks:
        asked = threading.local()

        def find_spec(self, name, path=None, target=None):
            if getattr(self.asked, "now", False):
                return None
            self.asked.now = True
            try:
                return next(filter(None, (each.find_spec(name, path, target) for each in sys.meta_path)), None)
            finally:
                self.asked.now = False

    (folder / "imported_seven.py").write_text("value = 7\n")
    imports.after_import("imported_seven", set_seen)
    sys.meta_path.insert(1, Asks())
    assert importlib.import_module("imported_seven").seen == [7]

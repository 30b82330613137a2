"""What every testing process has before it imports PyTorch and NNI."""

import os

# Before PyTorch is imported: on small tensors a second thread costs more than it brings, and
# where the cores are shared its spinning costs ten times as much.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import atexit
import gc
import shutil
import tempfile

import matplotlib

# Before NNI is imported, and also for what the tests start: a home of its own for its list of experiments, which
# every search reads and writes whole six times. The user's stays as it is, and two testing processes do not wait for
# each other. What matplotlib knows of the fonts takes seconds to find out, and stays where it is.
os.environ.setdefault("MPLCONFIGDIR", matplotlib.get_cachedir())
os.environ["HOME"] = tempfile.mkdtemp(prefix="nas-plugins-home-")

atexit.register(shutil.rmtree, os.environ["HOME"], ignore_errors=True)

# What is imported is no garbage either: a tenth of the time of the imports.
gc.disable()


def pytest_configure(config):
    """Fixtures that need NNI, whose import takes seconds: not for the process that only hands out the tests."""
    if hasattr(config, "workerinput") or not config.getoption("numprocesses", None):
        config.pluginmanager.import_plugin("small_searches")


def pytest_collection_modifyitems(items):
    """The experiments of NNI's manager and the checked heap come first: at the end all would wait for them."""
    items.sort(key=lambda item: item.path.stem not in ("test_launch", "test_heap"))


def pytest_collection_finish():
    """What is imported by now stays to the end: looking through it again and again for garbage takes its time."""
    gc.collect()
    gc.freeze()
    gc.enable()
    gc.set_threshold(20_000)  # supernets are made of thousands of objects, none of them garbage
    atexit.register(gc.unfreeze)  # at the end all is thrown away: libraries complain of what is not

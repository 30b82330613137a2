"""Measure the time of imports: NNI's strategies alone, and every public name of nas_plugins.

    python benchmarks/imports.py [--rounds N]

Each import runs in a separate process, and they alternate. Ratios are relative to NNI in the same round.
"""

from __future__ import annotations

import argparse
import subprocess
import sys

import pandas as pd

IMPORTS = {
    "nni.nas.strategy": "import nni.nas.strategy",
    "nas_plugins": "import nas_plugins",
    "nas_plugins, every name": "import nas_plugins; [getattr(nas_plugins, name) for name in nas_plugins.__all__]",
}


def cpu_seconds(statement: str) -> float:
    """Return the CPU seconds of a statement in a new process, without the start of Python."""
    code = f"import time; before = time.process_time(); {statement}; print(time.process_time() - before)"
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True)
    return float(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5, help="measurements of each")
    rows = [{name: cpu_seconds(code) for name, code in IMPORTS.items()} for _ in range(parser.parse_args().rounds)]
    table = pd.DataFrame(rows)
    ratios = table.div(table["nni.nas.strategy"], axis=0)
    print(
        pd.DataFrame(
            {"CPU seconds": table.median(), "to NNI": ratios.median(), "from": ratios.min(), "to": ratios.max()}
        )
    )

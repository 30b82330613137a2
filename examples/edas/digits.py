"""Run the demo from Python: search the digits with EDAS, retrain and evaluate the derived network, write a report.

    python examples/edas/digits.py runs/digits [--KEY VALUE ...]

``--KEY VALUE`` overrides a config key of the search, for example ``--strategy.sign_flip_epochs 0``.
"""

import argparse
from pathlib import Path

from nas_plugins.report.page import write_report
from nas_plugins.report.summary import summary, summary_text
from nas_plugins.training.retrain import evaluate, retrain
from nas_plugins.training.search import search

HERE = Path(__file__).parent

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output", type=Path, help="where the runs go")
    options, overrides = parser.parse_known_args()
    found = search(HERE / "digits.yaml", options.output / "search", overrides)
    trained = retrain(found / "genotype.json", HERE / "digits_retrain.yaml", options.output / "retrain")
    evaluate(trained)
    page = write_report([found, trained], options.output / "report")
    print(summary_text(summary([found, trained])), f"report: {page}", sep="\n")

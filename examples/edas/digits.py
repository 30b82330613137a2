"""The demo from Python: search the digits with EDAS, retrain what was found, test it, report.

    python examples/edas/digits.py runs/digits [--KEY VALUE ...]

The rest of the line overrides keys of the search, such as ``--strategy.warmup_epochs 0``.
"""

import sys
from pathlib import Path

from nas_plugins.experiment import search
from nas_plugins.report import write_report
from nas_plugins.results import summary, summary_text
from nas_plugins.training import evaluate, retrain

HERE = Path(__file__).parent

if __name__ == "__main__":
    output, *overrides = sys.argv[1:] or ["runs/digits"]
    found = search(HERE / "digits.yaml", Path(output, "search"), overrides)
    trained = retrain(found / "genotype.json", HERE / "digits_retrain.yaml", Path(output, "retrain"))
    evaluate(trained)
    page = write_report([found, trained], Path(output, "report"))
    print(summary_text(summary([found, trained])), f"report: {page}", sep="\n")

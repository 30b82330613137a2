"""A small search of each composition, on few channels, for a process in which glibc checks the heap.

All run on one thread, and then some on two. Each search prints its name before it starts: the last name is the one
that a process died of. Names on the command line choose the searches.
"""

import logging
import sys
import tempfile
import warnings
from pathlib import Path

import nni
import torch
from nni.nas.evaluator.pytorch import Classification, DataLoader
from nni.nas.experiment import NasExperiment
from nni.nas.experiment.config import NasExperimentConfig
from nni.nas.hub.pytorch import NasBench201
from nni.nas.nn.pytorch import LayerChoice, ModelSpace, MutableConv2d
from torch import nn
from torch.utils.data import TensorDataset

from nas_plugins import DARTS, DDARTS, EDAS, DartOptiSpace, DartsSpace, DDartsSpace, FairDARTS, FineTunedDartsSpace
from nas_plugins.experiment import search as command_line_search

STRIDED = ("skip_connect", "sep_conv_3x3", "dil_conv_5x5", "max_pool_3x3")


class Strided(ModelSpace):
    """A user's space with strided 1×1 convolutions of its own."""

    channels_last = True

    def __init__(self, image_channels: int = 3) -> None:
        super().__init__()
        candidates = [nn.Conv2d(image_channels, 4, 1, 2), nn.Conv2d(image_channels, 4, 3, 2, 1)]
        self.layer = LayerChoice(candidates, label="layer")
        self.weight = nn.Parameter(torch.randn(4, 4, 1, 1))
        kernel = nni.choice("kernel", [1, 3])
        self.conv = MutableConv2d(4, nni.choice("width", [2, 4]), kernel, 2, padding=kernel // 2)
        self.head = nn.Linear(4, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = nn.functional.conv2d(self.layer(x), self.weight, stride=2)
        features = self.conv(x).mean((2, 3))
        return self.head(nn.functional.pad(features, (0, 4 - features.shape[1])))


class StridedContiguous(Strided):
    """One that a search leaves contiguous, and that changes the format of its images itself."""

    channels_last = False

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x.contiguous(memory_format=torch.channels_last))


SEARCHES = {
    "DARTS": (DARTS, lambda: DartsSpace(channels=2, layers=3, nodes=2)),
    "DARTS one-level": (lambda: DARTS(order="one-level"), lambda: DartsSpace(channels=3, layers=3, nodes=2)),
    "DARTS second order": (lambda: DARTS(order="second"), lambda: DartsSpace(channels=4, layers=3, nodes=2)),
    "DARTS recomputing": (lambda: DARTS(recompute=True), lambda: FineTunedDartsSpace(channels=2, layers=3, nodes=2)),
    "EDAS": (EDAS, lambda: FineTunedDartsSpace(channels=2, layers=3, nodes=2)),
    "FairDARTS": (FairDARTS, lambda: DartsSpace(channels=2, layers=3, nodes=2, operations=STRIDED)),
    "D-DARTS": (lambda: DDARTS(ablation_gradient=True), lambda: DDartsSpace(channels=2, layers=3, nodes=2)),
    "D-DARTS skipping": (lambda: DDARTS(ablation_mode="skip"), lambda: DartOptiSpace("resnet18", channels=2)),
    "DARTS on NNI's hub": (DARTS, lambda: NasBench201(stem_out_channels=2, num_modules_per_stack=1)),
    "DARTS on a user's space": (DARTS, Strided),
    "EDAS on a user's space": (EDAS, Strided),
    "DARTS on a user's contiguous space": (DARTS, StridedContiguous),
}


ON_TWO_THREADS = ("DARTS", "EDAS", "DARTS on a user's space")
NNI_SEARCH = f"""
space: {{name: {Path(__file__).stem}.StridedContiguous}}
strategy: {{name: nni.nas.strategy.DARTS}}
data: {{dataset: digits, image_size: 16, train_images: 20, test_images: 20, batch_size: 8}}
training: {{epochs: 1}}
compute: {{accelerator: cpu}}
"""


def search(name: str, folder: Path) -> None:
    strategy, space = (make() for make in SEARCHES[name])
    # One step: a further one runs the same kernels.
    data = DataLoader(TensorDataset(torch.randn(8, 3, 8, 8), torch.randint(0, 10, (8,))), batch_size=8)
    evaluator = Classification(
        num_classes=10,
        train_dataloaders=data,
        val_dataloaders=data,
        max_epochs=1,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    config = NasExperimentConfig.default(space, evaluator, strategy)
    config.experiment_working_directory = folder
    experiment = NasExperiment(space, evaluator, strategy, config)
    experiment.run()
    experiment.stop()


def main() -> None:
    warnings.simplefilter("ignore")
    for name in ("nni", "pytorch_lightning"):
        logging.getLogger(name).setLevel(logging.ERROR)
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        for name in sys.argv[1:] or SEARCHES:
            print(name, flush=True)
            search(name, Path(folder))
        if not sys.argv[1:]:
            print("NNI's DARTS on the command line", flush=True)
            config = Path(folder) / "search.yaml"
            config.write_text(NNI_SEARCH)
            command_line_search(config, Path(folder) / "run")
        torch.set_num_threads(2)
        for name in sys.argv[1:] or ON_TWO_THREADS:
            print(f"{name}, on two threads", flush=True)
            search(name, Path(folder))
    print("all done", flush=True)


if __name__ == "__main__":
    main()

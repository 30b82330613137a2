"""Train derived networks from scratch, and test them."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytorch_lightning as pl
import torch

from nas_plugins.config.reader import Config, read_retrain
from nas_plugins.data.module import ImageData
from nas_plugins.errors import InputError
from nas_plugins.files import PathLike, one_line
from nas_plugins.runs import directory as runs
from nas_plugins.training.checkpoints import load_weights, read_result, rewrite_advice, save_tensors
from nas_plugins.training.module import ImageClassification
from nas_plugins.training.recorder import Recorder
from nas_plugins.training.trainer import check_compute, make_trainer, prepare_data, quiet, readable_errors
from search_spaces.complexity import count_multiply_adds, count_parameters
from search_spaces.genotype import Genotype
from search_spaces.network import Network


@quiet()
def retrain(
    genotype: PathLike,
    config: PathLike,
    output: PathLike,
    overrides: Sequence[str] = (),
    callbacks: Sequence[pl.Callback] = (),
) -> Path:
    """Train the network of a genotype from scratch.

    Args:
        genotype: The genotype file.
        config: The config file.
        output: The run directory to make.
        overrides: ``--key value`` pairs, which take precedence over the file.
        callbacks: Lightning callbacks, called after the metrics of an epoch are written.

    Returns:
        The run directory, with ``weights.pt``.

    Raises:
        InputError: An argument or a setting cannot be used.
    """
    settings = read_retrain(config, overrides)
    check_compute(settings.compute)  # first, because on several machines only Lightning knows which process is first
    runs.check_output(output)
    training = Retraining(settings, Genotype.load(genotype))
    return training.run(runs.create(output, settings, training.genotype), callbacks)


@quiet()
def evaluate(run: PathLike) -> dict[str, float]:
    """Test a retrained network, using only the files of its run, and write the result to ``test.json``.

    Returns:
        ``test_acc`` (a fraction from 0 to 1), ``test_loss`` and ``images``, the number of test images.

    Raises:
        InputError: The directory is not a finished retraining, or its weights are damaged.
    """
    run = Path(run)
    settings, kind = runs.read_config(run)
    if kind == "search" or not runs.is_finished(run, kind):
        what = "a search" if kind == "search" else "not finished"
        raise InputError(f"{run}: {what}; evaluate takes the run directory of a finished retraining")
    training = Retraining(settings, Genotype.load(run / runs.GENOTYPE))
    weights = run / runs.WEIGHTS
    load_weights(training.network, weights, read_result(weights), f"; {rewrite_advice(run)}")
    with readable_errors(run / runs.CHECKPOINT, f"nas-plugins evaluate {run}"):
        result = training.test(run)
    if not math.isfinite(result["test_loss"]):
        raise InputError(
            f"{weights}: the test loss is {result['test_loss']}, for the weights are lost; retrain with a "
            "lower training.learning_rate"
        )
    runs.write_json(run / runs.TEST, result)
    return result


class Retraining:
    """A checked retraining, ready to run.

    Args:
        config: The settings.
        genotype: The genotype; it is deepened if the settings ask for more layers.

    Raises:
        InputError: A setting cannot be used, or the network does not fit the images.
    """

    def __init__(self, config: Config, genotype: Genotype) -> None:
        assert config.derived is not None
        self.config = config
        derived = config.derived
        self.genotype = genotype if derived.layers is None else genotype.deepen(derived.layers)
        self.data = prepare_data(config)
        try:
            self.network = Network.from_genotype(
                self.genotype,
                num_classes=self.data.num_classes,
                channels=derived.channels,
                image_channels=self.data.image_channels,
                stem=derived.stem,
                auxiliary=derived.auxiliary_weight > 0,
                mlp_width=derived.mlp_width,
                image_size=self.data.image_size,
            )
            _check_shapes(self.network, self.data)
        except (ValueError, RuntimeError) as error:  # PyTorch raises RuntimeError when memory runs out
            raise InputError(f"network: {one_line(error)}") from None
        self.module = ImageClassification(self.data.num_classes, config.training, derived)
        self.module.set_model(self.network)

    def run(self, run: Path, callbacks: Sequence[pl.Callback] = ()) -> Path:
        """Train, starting from the checkpoint of the run if it exists, and write the weights and size of the network.

        Args:
            run: The run directory.
            callbacks: Further Lightning callbacks.

        Returns:
            The run directory.
        """
        derived = self.config.derived
        assert derived is not None
        trainer = make_trainer(
            self.config, run, [Recorder(run), *callbacks], gradient_clip_val=derived.gradient_clip_val
        )
        checkpoint = run / runs.CHECKPOINT
        with runs.at_work(run), readable_errors(checkpoint, f"nas-plugins resume {run}"):
            trainer.fit(self.module, datamodule=self.data, ckpt_path=str(checkpoint) if checkpoint.exists() else None)
            runs.write_json(run / runs.NETWORK, self._size())
            weights = {name: tensor.cpu() for name, tensor in self.network.state_dict().items()}
            if trainer.is_global_zero:
                save_tensors(weights, run / runs.WEIGHTS)
        return run

    def _size(self) -> dict[str, int]:
        data, auxiliary = self.data, self.network.auxiliary
        return {
            "parameters": count_parameters(self.network) - (0 if auxiliary is None else count_parameters(auxiliary)),
            "multiply_adds": count_multiply_adds(self.network, data.image_channels, data.image_size),
            "num_classes": data.num_classes,
            "image_channels": data.image_channels,
            "image_size": data.image_size,
        }

    def test(self, run: Path) -> dict[str, float]:
        """Return the loss and accuracy on the test images, and their number."""
        # On a single device, because several processes would count some images twice to have equal shares.
        single = replace(self.config, compute=replace(self.config.compute, devices=1, nodes=1))
        trainer = make_trainer(single, run, [])
        (logged,) = trainer.test(self.module, datamodule=self.data, verbose=False)
        return {**logged, "images": self.data.lengths["test"]}


def _check_shapes(network: Network, data: ImageData) -> None:
    """Run a training pass on tensors without memory, which raises if the network does not fit the images."""
    shadow = copy.deepcopy(network).to("meta").train()
    shadow(torch.empty(2, data.image_channels, data.image_size, data.image_size, device="meta"))

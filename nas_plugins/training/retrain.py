"""Derived networks: retrain them from scratch, and test them."""

from __future__ import annotations

import copy
import math
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytorch_lightning as pl
import torch

from nas_plugins.config.reader import Config, read_retrain
from nas_plugins.data.module import ImageData
from nas_plugins.errors import InputError
from nas_plugins.files import one_line
from nas_plugins.runs import directory as runs
from nas_plugins.training.checkpoints import load_tensors, save_tensors
from nas_plugins.training.module import ImageClassification
from nas_plugins.training.recorder import Recorder
from nas_plugins.training.trainer import check_compute, check_share, make_trainer, quiet, readable_errors
from search_spaces.complexity import count_multiply_adds, count_parameters
from search_spaces.genotype import Genotype
from search_spaces.network import Network

PathLike = str | os.PathLike[str]


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
        genotype: the genotype file.
        config: the config file.
        output: the run directory to make.
        overrides: ``--key value`` pairs that win over the file.
        callbacks: of Lightning, called after the metrics of an epoch are written.

    Returns:
        The run directory, with ``weights.pt``.

    Raises:
        InputError: something given cannot be used; nothing was written then.
    """
    settings = read_retrain(config, overrides)
    check_compute(settings.compute)  # first: on several machines only Lightning knows which process is the first
    runs.check_output(output)
    training = Retraining(settings, Genotype.load(genotype))
    return training.run(runs.create(output, settings, training.genotype), callbacks)


@quiet()
def evaluate(run: PathLike) -> dict[str, float]:
    """Test a retrained network, from the files of its run alone.

    Returns:
        ``test_acc`` (a share from 0 to 1), ``test_loss`` and ``images``; also written to test.json.

    Raises:
        InputError: the directory is no finished retraining.
    """
    run = Path(run)
    settings, is_search = runs.read_config(run)
    if is_search or not (run / runs.WEIGHTS).exists():
        what = "a search" if is_search else "not finished"
        raise InputError(f"{run}: {what}; evaluate takes the run directory of a finished retraining")
    training = Retraining(settings, Genotype.load(run / runs.GENOTYPE))
    cure = f"delete it, and nas-plugins resume {run} writes it anew"
    try:
        weights = load_tensors(run / runs.WEIGHTS)
    except InputError as error:
        raise InputError(f"{error}; {cure}") from None
    try:
        training.network.load_state_dict(weights)
    except (RuntimeError, TypeError) as error:
        reason = str(error).strip().splitlines()[-1].strip()
        raise InputError(f"{run / runs.WEIGHTS}: not the weights of this run's network: {reason}; {cure}") from None
    with readable_errors(run / runs.CHECKPOINT, f"nas-plugins evaluate {run}"):
        result = training.test(run)
    if not math.isfinite(result["test_loss"]):
        raise InputError(
            f"{run / runs.WEIGHTS}: the test loss is {result['test_loss']}, for the weights are lost; retrain with a "
            "lower training.learning_rate"
        )
    runs.write_json(run / "test.json", result)
    return result


class Retraining:
    """A checked retraining, ready to run: making one raises what is wrong with the input."""

    def __init__(self, config: Config, genotype: Genotype) -> None:
        assert config.derived is not None
        self.config = config
        derived = config.derived
        check_compute(config.compute)
        self.genotype = genotype if derived.layers is None else genotype.deepen(derived.layers)
        pl.seed_everything(config.seed, workers=True, verbose=False)
        self.data = config.data()
        check_share(config.compute, self.data)
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
            _shape_check(self.network, self.data)
        except (ValueError, RuntimeError) as error:  # also: no memory for it
            raise InputError(f"network: {one_line(error)}") from None
        self.module = ImageClassification(self.data.num_classes, config.training, derived)
        self.module.set_model(self.network)

    def run(self, run: Path, callbacks: Sequence[pl.Callback] = ()) -> Path:
        """Train, from the checkpoint of the run where there is one, and write weights and facts of the network."""
        derived = self.config.derived
        assert derived is not None
        trainer = make_trainer(
            self.config, run, [Recorder(run), *callbacks], gradient_clip_val=derived.gradient_clip_val
        )
        checkpoint = run / runs.CHECKPOINT
        with runs.at_work(run), readable_errors(checkpoint, f"nas-plugins resume {run}"):
            trainer.fit(self.module, datamodule=self.data, ckpt_path=str(checkpoint) if checkpoint.exists() else None)
            runs.write_json(run / "network.json", self._facts())
            weights = {name: tensor.cpu() for name, tensor in self.network.state_dict().items()}
            if trainer.is_global_zero:
                save_tensors(weights, run / runs.WEIGHTS)
        return run

    def _facts(self) -> dict[str, int]:
        data = self.data
        return {
            "parameters": count_parameters(self.network) - _auxiliary_parameters(self.network),
            "multiply_adds": count_multiply_adds(self.network, data.image_channels, data.image_size),
            "num_classes": data.num_classes,
            "image_channels": data.image_channels,
            "image_size": data.image_size,
        }

    def test(self, run: Path) -> dict[str, float]:
        """Loss and accuracy on the test images."""
        # Several processes would count some images twice, to have as many each.
        single = replace(self.config, compute=replace(self.config.compute, devices=1, nodes=1))
        trainer = make_trainer(single, run, [])
        (logged,) = trainer.test(self.module, datamodule=self.data, verbose=False)
        return {**logged, "images": self.data.lengths["test"]}


def _auxiliary_parameters(network: Network) -> int:
    return 0 if network.auxiliary is None else count_parameters(network.auxiliary)


def _shape_check(network: Network, data: ImageData) -> None:
    """One training pass on tensors without memory: what does not fit together is said before any long work."""
    shadow = copy.deepcopy(network).to("meta").train()
    shadow(torch.empty(2, data.image_channels, data.image_size, data.image_size, device="meta"))

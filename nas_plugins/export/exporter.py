"""Export of a run: checks, the files and their model card."""

from __future__ import annotations

import importlib
import keyword
import sys
from dataclasses import dataclass
from pathlib import Path

from nas_plugins.errors import InputError
from nas_plugins.export.card import write_card
from nas_plugins.export.formats import FORMATS, Exported, FormatName
from nas_plugins.export.model import Model, Weights, read_model
from nas_plugins.files import PathLike, check_output_file
from nas_plugins.training.trainer import quiet
from search_spaces.files import write_whole


@dataclass(frozen=True)
class Export:
    """Files of an export.

    Args:
        files: Paths of the exported file, of further files, and of the model card.
        images: Number of test images on which the export was checked.
        difference: Largest difference of a logit, see :data:`~nas_plugins.export.formats.TOLERANCE`.
    """

    files: tuple[Path, ...]
    images: int
    difference: float


@quiet()
def export(run: PathLike, format: FormatName, output: PathLike, weights: Weights | None = None) -> Export:
    """Write the network of a run to files that do not need this project.

    A retraining is exported with its weights. A search is exported with those of its supernet, or as Python without
    weights. The auxiliary head, which only training uses, is left out.

    Args:
        run: The run directory of a finished retraining or search.
        format: A key of :data:`~nas_plugins.export.formats.FORMATS`.
        output: The file to write. Its model card has the same name with ``.md`` appended; the weights of a Python file
            have the suffix ``.safetensors``.
        weights: Weights of the network of a search: "inherited" from its supernet, or "new" (the default).

    Raises:
        InputError: The run cannot be exported in this format, a package is missing, or the output cannot be written.
        OSError: A file cannot be written.
    """
    output = Path(output)
    _check_output(format, output)
    _check_packages(format)
    model = read_model(run, weights)
    if not model.trained and format != "python":
        raise InputError(
            f"--format {format}: {run} is a search, which has no trained network: retrain its genotype, then export "
            "that run, or take the weights of its supernet: --weights inherited; --format python needs none"
        )
    exported = FORMATS[format].write(model)
    return _written(model, exported, format, output)


def _written(model: Model, exported: Exported, format: FormatName, output: Path) -> Export:
    card = write_card(model, exported, format, output.name)
    files = {_card(output): card.encode("utf-8")}
    files |= {output.with_suffix(suffix): content for suffix, content in exported.files.items()}
    for path, content in files.items():
        _write_whole(path, content)
    *others, main = files
    return Export((main, *reversed(others)), len(model.examples), exported.difference)


def _write_whole(path: Path, content: bytes) -> None:
    write_whole(path, lambda file: file.write(content))


def _card(output: Path) -> Path:
    return output.with_name(f"{output.name}.md")


def _check_output(format: FormatName, output: Path) -> None:
    """Raise an InputError if a file of the export exists or cannot be written."""
    suffix = FORMATS[format].suffix
    if output.suffix != suffix or not output.stem:
        raise InputError(f"--output: {output} should be a file that ends in {suffix}, as --format {format} writes it")
    if format == "python":
        _check_module(output)
    for path in (output, *(output.with_suffix(other) for other in FORMATS[format].companions), _card(output)):
        if path.exists() or path.is_symlink():
            raise InputError(f"--output: {path} already exists; choose another name, or remove it")
    check_output_file(output)


def _check_module(output: Path) -> None:
    """Raise an InputError if a Python file cannot be imported, or would hide a module that it needs."""
    name = output.stem
    if not name.isidentifier() or keyword.iskeyword(name):
        raise InputError(f"--output: {output} cannot be imported: {name!r} is no name in Python; model.py would be one")
    if name in sys.stdlib_module_names or name in ("torch", "safetensors", "numpy"):
        raise InputError(f"--output: {output} would hide the module {name}; choose another name, for example model.py")


def _check_packages(format: FormatName) -> None:
    for package in FORMATS[format].packages:
        try:
            importlib.import_module(package)
        except ImportError as error:
            raise InputError(
                f"--format {format}: needs the package {package} ({error}): pip install 'nas-plugins[export]'"
            ) from None

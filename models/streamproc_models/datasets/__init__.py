"""Public data sets as logs of cart events, each with what it holds out. They are read from a folder, never shipped.

Sets without times get synthetic ones, which their classes document.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from streamproc_models.datasets.base import Dataset, Target, Task
from streamproc_models.datasets.diginetica import Diginetica
from streamproc_models.datasets.jdata import jdata_events
from streamproc_models.datasets.retail import TemporalSplit, online_retail
from streamproc_models.datasets.tafeng import TaFeng

#: The sets that are judged, by their names.
DATASETS: dict[str, Callable[..., Dataset]] = {
    "tafeng": TaFeng,
    "diginetica": Diginetica,
    "online-retail": online_retail,
}


def open_dataset(name: str, folder: Path | None = None, *, inner: bool = False) -> Dataset:
    """The data set of this name, from this folder or ``STREAMPROC_DATA_DIR``.

    ``inner`` gives a split of the same shape inside the training part, which is for choosing settings: it reads nothing
    that is held out. Raises SettingsError where there is no folder.
    """
    return DATASETS[name](folder, inner=inner)


__all__ = [
    "DATASETS",
    "Dataset",
    "Diginetica",
    "TaFeng",
    "Target",
    "Task",
    "TemporalSplit",
    "jdata_events",
    "online_retail",
    "open_dataset",
]

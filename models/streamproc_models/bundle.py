"""The bundle: what is promoted. A folder of data files and a manifest that proves them; nothing in it is code.

    model.ubj                  the booster, XGBoost's own format; absent where there was too little to train on
    extra/manifest.json        what the bundle is, and the SHA-256 of every other file
    extra/catalogue.msgpack    the item table
    extra/generators.msgpack   what proposes items: plain arrays
    extra/golden.msgpack       rows of the matrix and the scores that XGBoost gives them

The booster stands alone: SageMaker's XGBoost container takes every file of a model's folder for a booster, and looks
into no folder below it.

:func:`load` believes nothing: digests, feature schema and fold version must match this code, and the golden rows must
score the same: probabilities within 1e-6, margins within 1e-5.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import numpy as np
import xgboost
from numpy.typing import NDArray

from streamproc.errors import SettingsError
from streamproc_models.booster import HAS_ONEDAL, Booster, scored_by
from streamproc_models.catalogue import Catalogue
from streamproc_models.errors import BundleInvalid
from streamproc_models.features import FOLD_VERSION, features_of, schema_hash
from streamproc_models.retrieval.base import Generator
from streamproc_models.retrieval.kinds import KINDS

FORMAT_VERSION = 2
MODEL = "model.ubj"
MANIFEST = "extra/manifest.json"
CATALOGUE = "extra/catalogue.msgpack"
GENERATORS = "extra/generators.msgpack"
GOLDEN = "extra/golden.msgpack"
#: Largest difference of a golden row's score, a probability or a margin: what adds up the same trees in another order
#: rounds otherwise, and margins are the larger numbers.
PROBABILITIES_OFF_MAX, MARGINS_OFF_MAX = 1e-6, 1e-5
#: Predictions before a loaded model is handed out: the first calls of a booster are several times slower.
_WARM_UP_CALLS = 5

T = TypeVar("T")


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What a bundle says of itself."""

    format_version: int = FORMAT_VERSION
    #: From the content: equal bundles have equal versions.
    model_version: str
    #: The features in the order of the columns, and the hash over their declarations.
    features: tuple[str, ...]
    schema_hash: str
    #: The generators in the order of their columns.
    generators: tuple[str, ...]
    fold_version: int
    #: Scale and shift from scores to the logit of a probability, where the scores are none yet.
    calibration: tuple[float, float] | None = None
    #: First and last event time of the log that it was trained on, RFC 3339.
    trained_from: str
    trained_until: str
    #: On the validation slice, for cold and warm states: metric -> value, for the model and each baseline beside it.
    metrics: dict[str, dict[str, dict[str, float]]]
    xgboost_version: str
    #: File name -> SHA-256.
    files: dict[str, str]


class Bundle(msgspec.Struct, frozen=True):
    """A bundle in memory."""

    manifest: Manifest
    catalogue: Catalogue
    #: None where the bundle has no model: then popularity ranks.
    booster: Booster | None

    @property
    def calibration(self) -> tuple[float, float] | None:
        """See Manifest."""
        return self.manifest.calibration

    @property
    def model_version(self) -> str:
        """The version that goes into every recommendation."""
        return self.manifest.model_version

    @property
    def item_snapshot(self) -> str:
        """Which cross-user values (popularity, neighbours) are in force: the bundle's own."""
        return f"bundle:{self.manifest.model_version}"


class _Array(msgspec.Struct):
    dtype: str
    shape: tuple[int, ...]
    #: A view into what was read: copying a hundred megabytes would stop every other thread for as long.
    data: memoryview


class _Catalogue(msgspec.Struct, omit_defaults=True):
    ids: list[str]
    names: list[str]
    features: _Array
    candidates_max: int
    proposed_max: int
    #: Left out where no item has one.
    categories: list[str] = []
    brands: list[str] = []


class _Generator(msgspec.Struct):
    kind: str
    name: str
    parameters: dict[str, Any]
    arrays: dict[str, _Array]


class _Golden(msgspec.Struct):
    rows: _Array
    scores: _Array


def calibrated(scores: NDArray[np.float32], calibration: tuple[float, float] | None) -> NDArray[np.float32]:
    """Probabilities from scores: 1 / (1 + exp(-(scale * score + shift))); None leaves them as they are."""
    if calibration is None:
        return scores
    scale, shift = calibration
    return (1 / (1 + np.exp(-(scale * scores.astype(np.float64) + shift)))).astype(np.float32)


def write(
    path: Path,
    catalogue: Catalogue,
    booster: Booster | None,
    *,
    calibration: tuple[float, float] | None = None,
    golden_rows: NDArray[np.float32],
    trained_from: str,
    trained_until: str,
    metrics: dict[str, dict[str, dict[str, float]]],
) -> Manifest:
    """Write a bundle to a folder, which is made where there is none. Equal input gives equal bytes.

    Raises SettingsError where the folder cannot be written.
    """
    contents = {
        CATALOGUE: msgspec.msgpack.encode(
            _Catalogue(
                catalogue.ids,
                catalogue.names,
                _packed(catalogue.features),
                catalogue.candidates_max,
                catalogue.proposed_max,
                catalogue.categories,
                catalogue.brands,
            )
        ),
        GENERATORS: msgspec.msgpack.encode([_of_generator(generator) for generator in catalogue.generators]),
    }
    names = catalogue.generator_names
    if booster is not None:
        contents[MODEL] = bytes(booster.trained.save_raw("ubj"))
        scores = _booster(contents[MODEL], onedal=False).scores(golden_rows)
        contents[GOLDEN] = msgspec.msgpack.encode(_Golden(_packed(golden_rows), _packed(scores)))
    files = {name: hashlib.sha256(content).hexdigest() for name, content in sorted(contents.items())}
    manifest = Manifest(
        model_version=_version(files, names, calibration),
        features=tuple(feature.name for feature in features_of(names)),
        schema_hash=schema_hash(names),
        generators=names,
        calibration=calibration,
        fold_version=FOLD_VERSION,
        trained_from=trained_from,
        trained_until=trained_until,
        metrics=metrics,
        xgboost_version=xgboost.__version__,
        files=files,
    )
    # The manifest comes last: what it does not prove is not loaded, so half a write never is.
    contents[MANIFEST] = msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n"
    try:
        path.mkdir(parents=True, exist_ok=True)
        for name, content in contents.items():
            (path / name).parent.mkdir(exist_ok=True)
            (path / name).write_bytes(content)
    except OSError as error:
        raise SettingsError(f"the bundle cannot be written to {path}: {error}") from error
    return manifest


def load(path: Path) -> Bundle:
    """Read, prove and warm up a bundle. Raises BundleInvalid with the name of the file that is wrong."""
    manifest = _decoded(path / MANIFEST, _read(path / MANIFEST), msgspec.json.Decoder(Manifest))
    _check_versions(path / MANIFEST, manifest)
    contents = {name: _proven(path / name, digest) for name, digest in manifest.files.items()}
    if not {CATALOGUE, GENERATORS} <= contents.keys() or (MODEL in contents) != (GOLDEN in contents):
        raise BundleInvalid(f"{path / MANIFEST} lists {', '.join(contents)}: a file is missing there; train it again")
    stored = _decoded(path / CATALOGUE, contents[CATALOGUE], msgspec.msgpack.Decoder(_Catalogue))
    generators = _decoded(path / GENERATORS, contents[GENERATORS], msgspec.msgpack.Decoder(list[_Generator]))
    made = tuple(_to_generator(path / GENERATORS, one) for one in generators)
    catalogue = Catalogue(
        stored.ids,
        stored.names,
        _unpacked(stored.features),
        made,
        stored.candidates_max,
        stored.proposed_max,
        _seconds(path / MANIFEST, manifest.trained_until),
        stored.categories,
        stored.brands,
    )
    if catalogue.generator_names != manifest.generators:
        raise BundleInvalid(f"{path / GENERATORS} has other generators than the manifest: copy the bundle again")
    if MODEL not in contents:
        return Bundle(manifest, catalogue, None)
    booster = _booster(contents[MODEL])
    golden = _decoded(path / GOLDEN, contents[GOLDEN], msgspec.msgpack.Decoder(_Golden))
    _check_golden(path, booster, _unpacked(golden.rows), _unpacked(golden.scores))
    return Bundle(manifest, catalogue, booster)


def _seconds(path: Path, time: str) -> float:
    try:
        return datetime.fromisoformat(time).timestamp()
    except ValueError as error:
        raise BundleInvalid(f"{path} has trained_until {time!r}, which is no time: copy the bundle again") from error


def _check_versions(path: Path, manifest: Manifest) -> None:
    for what, theirs, ours in (
        ("format version", manifest.format_version, FORMAT_VERSION),
        ("fold version", manifest.fold_version, FOLD_VERSION),
        ("feature schema", manifest.schema_hash, schema_hash(manifest.generators)),
    ):
        if theirs != ours:
            raise BundleInvalid(
                f"{path} has {what} {theirs} and this code {ours}: the columns would not mean what the model learned;"
                " train a bundle with this version, or deploy the version that wrote it"
            )
    found = _version(manifest.files, manifest.generators, manifest.calibration)
    if manifest.model_version != found:
        raise BundleInvalid(
            f"{path} calls itself {manifest.model_version} and its content makes {found}: it was changed after"
            " training; copy the bundle again"
        )


def _check_golden(path: Path, booster: Booster, rows: NDArray[np.float32], expected: NDArray[np.float32]) -> None:
    for _ in range(_WARM_UP_CALLS):
        scores = booster.scores(rows)
    worst = float(np.max(np.abs(scores - expected), initial=0.0))
    if not worst <= (PROBABILITIES_OFF_MAX if booster.gives_probabilities else MARGINS_OFF_MAX):
        raise BundleInvalid(
            f"{path / GOLDEN}: a golden row scores {worst:.2g} off what it did when the model was trained; this"
            f" {scored_by()} does not compute what the model means: install what it was trained with (XGBoost: see"
            " the manifest)"
        )


def _booster(model: bytes, *, onedal: bool = HAS_ONEDAL) -> Booster:
    trained = xgboost.Booster()
    trained.load_model(bytearray(model))
    return Booster(trained, onedal=onedal)


def _version(files: Mapping[str, str], generators: Sequence[str], calibration: tuple[float, float] | None) -> str:
    content = msgspec.json.encode([sorted(files.items()), schema_hash(generators), FOLD_VERSION, calibration])
    return hashlib.sha256(content).hexdigest()[:12]


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise BundleInvalid(f"{path} cannot be read ({error.strerror}): copy the bundle again, or train one") from error


def _proven(path: Path, digest: str) -> bytes:
    content = _read(path)
    if hashlib.sha256(content).hexdigest() != digest:
        raise BundleInvalid(f"{path} is not the file that the manifest lists (SHA-256 differs): copy the bundle again")
    return content


def _decoded(path: Path, content: bytes, decoder: Any) -> Any:
    try:
        return decoder.decode(content)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BundleInvalid(f"{path} is not readable ({error}): copy the bundle again") from error


def _of_generator(generator: Generator) -> _Generator:
    arrays = {name: _packed(array) for name, array in sorted(generator.arrays().items())}
    return _Generator(generator.KIND, generator.name, dict(generator.parameters()), arrays)


def _to_generator(path: Path, stored: _Generator) -> Generator:
    kind = KINDS.get(stored.kind)
    if kind is None:
        raise BundleInvalid(
            f"{path} has a generator of kind {stored.kind!r}, which this version does not know: deploy one that does"
        )
    arrays = {name: _unpacked(array) for name, array in stored.arrays.items()}
    try:
        return kind.from_arrays(stored.name, stored.parameters, arrays)
    except (KeyError, ValueError, TypeError) as error:
        raise BundleInvalid(f"{path}: the generator {stored.name} is not readable ({error}): train it again") from error


def _packed(array: NDArray[Any]) -> _Array:
    little = array.astype(array.dtype.newbyteorder("<"))
    return _Array(little.dtype.str, array.shape, memoryview(little.tobytes()))


def _unpacked(array: _Array) -> NDArray[Any]:
    return np.frombuffer(array.data, np.dtype(array.dtype)).reshape(array.shape)

"""The gate: why a bundle must not be promoted. Nothing in it is executed.

What would also keep a consumer from serving it (a changed file, a pickle, another feature schema, golden rows that
score otherwise) cannot be overruled. What only says that it is worse can be, with a reason.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec

from streamproc_models import bundle as bundles
from streamproc_models.bundle import MANIFEST, Bundle, Manifest
from streamproc_models.errors import BundleInvalid
from streamproc_models.features import features_of, new_state
from streamproc_models.registry.base import SHADOW
from streamproc_models.registry.pickles import has_pickle
from streamproc_models.registry.significance import MODEL, baskets_of, differences, names_of
from streamproc_models.scorer import Scorer

_MODEL_SUFFIX, _ARRAYS_SUFFIX, _TEXT_SUFFIX = ".ubj", ".msgpack", ".json"
_SUFFIXES = (_MODEL_SUFFIX, _ARRAYS_SUFFIX, _TEXT_SUFFIX)


class Refusal(msgspec.Struct, frozen=True):
    """One reason, in one sentence."""

    sentence: str
    #: Whether ``--force`` may go against it.
    overrulable: bool = False


def proven(folder: Path) -> tuple[Bundle | None, list[Refusal]]:
    """The bundle in a folder, or why no consumer could serve it."""
    refusals = [Refusal(sentence) for sentence in _wrong_files(folder)]
    if refusals:
        return None, refusals
    try:
        bundle = bundles.load(folder)
    except BundleInvalid as error:
        return None, [Refusal(sentence) for sentence in _unknown_features(folder)] or [Refusal(str(error))]
    try:
        Scorer(bundle).rank([("", new_state())])  # as a consumer does before it serves it
    except Exception as error:  # noqa: BLE001  # whatever a bad bundle brings about
        return None, [Refusal(f"it cannot rank a new user: {type(error).__name__}: {error}")]
    return bundle, []


def quality(candidate: Manifest, champion: Manifest | None, to: str) -> list[Refusal]:
    """Why a sound bundle would be a step back. Nothing keeps one from being the shadow: it shows nobody its lists."""
    if to == SHADOW:
        return []
    return [Refusal(sentence, overrulable=True) for sentence in _steps_back(candidate, champion)]


def _wrong_files(folder: Path) -> Iterator[str]:
    listed = {MANIFEST, *_listed(folder)}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink():
            yield f"{name} is a link: a bundle has its files in itself"
        elif path.is_dir():
            continue
        elif path.suffix not in _SUFFIXES:
            yield f"{name} is none of {', '.join(_SUFFIXES)}: a bundle has data in it and nothing else"
        elif name not in listed:
            yield f"{name} is not in the manifest, so nothing proves it: remove it, or train the bundle again"
        elif path.parent == folder and name != bundles.MODEL:
            yield f"{name} is beside {bundles.MODEL}: SageMaker's container would load it as a second model"
        else:
            content = path.read_bytes()
            if has_pickle(content):
                yield f"{name} has a pickle in it: loading one runs its author's code; save the model as .ubj"
            elif not _is_what_it_says(content, path.suffix):
                yield f"{name} is not {path.suffix.removeprefix('.')} inside: copy the bundle again"


def _is_what_it_says(content: bytes, suffix: str) -> bool:
    try:
        if suffix == _TEXT_SUFFIX:
            msgspec.json.decode(content)
        elif suffix == _ARRAYS_SUFFIX:
            msgspec.msgpack.decode(content)
        else:
            return content.startswith(b"{")  # XGBoost itself reads the rest
    except (msgspec.DecodeError, UnicodeDecodeError):
        return False
    return True


def _listed(folder: Path) -> list[str]:
    manifest = _manifest(folder)
    return list(manifest.files) if manifest else []


def _manifest(folder: Path) -> Manifest | None:
    try:
        return msgspec.json.decode((folder / MANIFEST).read_bytes(), type=Manifest)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):
        return None  # bundles.load says what is wrong with it


def _unknown_features(folder: Path) -> Iterator[str]:
    manifest = _manifest(folder)
    if manifest is None:
        return
    known = {feature.name for feature in features_of(manifest.generators)}
    if unknown := [name for name in manifest.features if name not in known]:
        names = ", ".join(unknown)
        yield f"the model wants features that this version does not compute ({names}): deploy one that does, or train"


def _steps_back(candidate: Manifest, champion: Manifest | None) -> Iterator[str]:
    metrics = candidate.metrics
    judged = {slice_: rankings for slice_, rankings in metrics.items() if MODEL in rankings}
    if not judged:
        yield "the manifest has no validation metrics of the model, so nothing says that it is better than nothing"
        return
    others = {
        f"the baseline {baseline.replace('_', ' ')}": (metrics, baseline)
        for rankings in judged.values()
        for baseline in rankings
        if baseline != MODEL and names_of(rankings[baseline])
    }
    if champion is not None and champion.model_version != candidate.model_version:
        others[f"the champion {champion.model_version}"] = (champion.metrics, MODEL)
        if not differences(metrics, MODEL, champion.metrics, MODEL):
            yield f"no metric of it can be compared with the champion's ({champion.model_version})"
    for name, (beside, ranking) in others.items():
        for found in differences(metrics, MODEL, beside, ranking):
            if found.worse:
                told = None not in (baskets_of(metrics, found.slice), baskets_of(beside, found.slice))
                beyond = f"noise explains {found.noise:.4f}" if told else "without a number of baskets any loss counts"
                yield (
                    f"{found.metric} on {found.slice} states is {found.value:.4f}, below {found.other:.4f} of {name}"
                    f" ({beyond})"
                )

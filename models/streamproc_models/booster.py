"""The booster: XGBoost trains, writes and explains it, and oneDAL adds up its trees, in half of XGBoost's time.

oneDAL (which comes with daal4py, a part of scikit-learn-intelex) exists for x86-64; elsewhere XGBoost scores, too. They
differ by rounding: XGBoost begins its float32 sum of the leaves with the base score, and here that is added last. By
either, a row's score does not depend on the other rows of a call.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib.metadata import version

import numpy as np
import xgboost
from numpy.typing import NDArray

try:
    import daal4py
except ModuleNotFoundError:  # no wheel for this platform; what is installed and broken should be seen
    daal4py = None

#: Whether oneDAL is installed.
HAS_ONEDAL = daal4py is not None
if HAS_ONEDAL:
    # One thread: in a batch of this size more cost more than they bring, and on a shared machine they stall it.
    daal4py.daalinit(1)

#: Beyond it exp() leaves the range of float32.
_EXPONENT_MAX = np.float32(88.0)

_Margins = Callable[[NDArray[np.float32]], NDArray[np.float32]]


class Booster:
    """A trained booster that is ready to score. For any number of threads at once."""

    def __init__(self, trained: xgboost.Booster, *, onedal: bool = HAS_ONEDAL) -> None:
        """``onedal`` chooses what adds up the trees. Takes 50 ms for 100 trees of depth 6."""
        trained.set_param({"nthread": 1})
        self.trained = trained
        learner: dict[str, dict[str, str]] = json.loads(trained.save_config())["learner"]
        #: Whether its scores are probabilities, or margins.
        self.gives_probabilities = learner["learner_train_param"]["objective"] == "binary:logistic"
        self._onedal = onedal
        if onedal:
            (base,) = np.array(json.loads(learner["learner_model_param"]["base_score"]), dtype=np.float32)
            self._margins = _by_onedal(trained, -np.log(1 / base - 1) if self.gives_probabilities else base)
        else:
            self._margins = _by_xgboost(trained)

    @property
    def trees(self) -> int:
        """How many there are."""
        return self.trained.num_boosted_rounds()

    def first(self, trees: int) -> Booster:
        """The first trees alone, added up as all of them are."""
        return Booster(self.trained[:trees], onedal=self._onedal)

    def scores(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        """Scores float32 [rows]: one call, in the thread of the caller. See ``gives_probabilities``."""
        if not len(rows):
            return np.zeros(0, dtype=np.float32)
        margins = self._margins(rows)
        if not self.gives_probabilities:
            return margins
        scores: NDArray[np.float32] = np.reciprocal(1 + np.exp(np.minimum(-margins, _EXPONENT_MAX)))
        return scores

    def contributions(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        """Float32 [rows, features + 1]: what each feature adds to a row's margin (TreeSHAP), and last the bias."""
        contributions: NDArray[np.float32] = self.trained.predict(
            xgboost.DMatrix(rows, nthread=1), pred_contribs=True, validate_features=False
        )
        return contributions


def scored_by() -> str:
    """What adds up the trees here, with its version."""
    return f"oneDAL ({version('daal')})" if HAS_ONEDAL else f"XGBoost ({xgboost.__version__})"


def _by_xgboost(trained: xgboost.Booster) -> _Margins:
    def margins(rows: NDArray[np.float32]) -> NDArray[np.float32]:
        found: NDArray[np.float32] = trained.inplace_predict(rows, predict_type="margin", validate_features=False)
        return found

    return margins


def _by_onedal(trained: xgboost.Booster, base: np.float32) -> _Margins:
    """The sum of the leaves and the base margin, whatever the objective makes of it."""
    # oneDAL knows no ranking objective, and of a logistic one it gives probabilities alone. A base score of its own it
    # adds first to most rows, and last to those at the end of a call.
    plain = trained.copy()
    plain.set_param({"objective": "reg:squarederror", "base_score": 0.0})
    model = daal4py.mb.convert_model(plain)

    def margins(rows: NDArray[np.float32]) -> NDArray[np.float32]:
        found: NDArray[np.float32] = model.predict(rows) + base
        return found

    return margins

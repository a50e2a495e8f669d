"""How a model is trained."""

from __future__ import annotations

import enum

import msgspec

from streamproc.errors import SettingsError


class Objective(enum.StrEnum):
    """What the booster optimises."""

    #: The probability of each candidate, by itself.
    LOGISTIC = "binary:logistic"
    #: The order of each list; its probabilities are fitted to its scores afterwards.
    NDCG = "rank:ndcg"


class TrainingSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How the ranker is trained."""

    #: What proposes items; see streamproc_models.training.generators.
    generators: tuple[str, ...] = ("covisit",)
    objective: Objective = Objective.LOGISTIC
    #: The log before the cut is divided into so many episodes, counted back from it; the last one validates.
    episodes: int = 5
    episode_days: float = 10.0
    #: Whether a list is for all that the user buys in an episode's days; else for the next basket.
    whole_episodes: bool = False
    #: States that start empty are followed for so long: two episodes give users time for a second basket. 0: none are.
    cold_days: float = 20.0
    #: Items in fewer baskets are not in the catalogue.
    item_baskets_min: int = 1
    candidates_max: int = 100
    #: What each generator proposes at most.
    proposed_max: int = 40
    #: Negatives kept a basket. At 100 candidates a user it keeps all of them.
    negatives_max: int = 100
    #: The rows of a basket of n items weigh n ** -this. At 0 the large baskets rule, which have the most positives;
    #: recall is a share of each basket. With Objective.NDCG all lists weigh alike anyway.
    size_power: float = 0.0
    #: Fewer labelled baskets than this train no model: the bundle then ranks by popularity.
    baskets_min: int = 50
    #: Deeper or more trees take longer to score and ranked no better on four cuts of Online Retail.
    trees_max: int = 80
    tree_depth: int = 4
    #: Rows, by their weight, that a leaf needs at least; and the share of the features that a tree is made of.
    leaf_weight_min: float = 10.0
    tree_features: float = 0.7
    #: Training stops where so many trees in a row bring nothing on the validation episode.
    patience_trees: int = 15
    learning_rate: float = 0.15
    #: Threads of training alone. Another number adds up in another order and gives other bytes.
    threads: int = 2
    seed: int = 7

    @property
    def gives_probabilities(self) -> bool:
        """Whether the booster's scores are probabilities; else those are fitted to its scores afterwards."""
        return self.objective is Objective.LOGISTIC and not self.size_power

    def __post_init__(self) -> None:
        if self.episodes < 2:
            raise SettingsError(f"episodes is {self.episodes}: with fewer than 2 nothing is left to train on")
        for name in (
            "item_baskets_min",
            "candidates_max",
            "proposed_max",
            "negatives_max",
            "trees_max",
            "tree_depth",
            "threads",
        ):
            if getattr(self, name) < 1:
                raise SettingsError(f"{name} is {getattr(self, name)}: it must be 1 or more")
        if self.episode_days <= 0:
            raise SettingsError(f"episode_days is {self.episode_days}: it must be above 0")
        for name in ("cold_days", "size_power", "leaf_weight_min"):
            if getattr(self, name) < 0:
                raise SettingsError(f"{name} is {getattr(self, name)}: it must be 0 or more")
        if not 0 < self.tree_features <= 1:
            raise SettingsError(f"tree_features is {self.tree_features}: it must be above 0, and 1 at most")

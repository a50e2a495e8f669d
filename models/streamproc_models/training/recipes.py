"""Settings for the public data sets, chosen on their inner splits alone; a shop may begin with the nearest."""

from __future__ import annotations

from streamproc_models.training.settings import TrainingSettings

#: By the name of the data set.
RECIPES: dict[str, TrainingSettings] = {
    # Baskets of a grocery: everybody's last baskets are the labels.
    "tafeng": TrainingSettings(
        generators=("ridge", "ease", "next_orders", "together_orders", "session_knn", "encoder"),
        episodes=2,
        episode_days=7,
        cold_days=0,
        item_baskets_min=3,
        candidates_max=160,
        proposed_max=20,
        negatives_max=160,
        trees_max=150,
        tree_depth=6,
        learning_rate=0.1,
        patience_trees=20,
    ),
    # Sessions of views: the next view is the label.
    "diginetica": TrainingSettings(
        generators=("session_knn", "encoder", "next_views"),
        episodes=2,
        episode_days=20,
        cold_days=0,
        candidates_max=150,
        proposed_max=100,
        negatives_max=50,
        trees_max=250,
        tree_depth=7,
        learning_rate=0.07,
        patience_trees=20,
    ),
    # Orders of a gift shop: all that a user buys in the next thirty days is the label.
    "online-retail": TrainingSettings(
        generators=("ridge", "ease", "together_orders", "text", "encoder"),
        episodes=4,
        episode_days=30,
        whole_episodes=True,
        cold_days=0,
        candidates_max=300,
        proposed_max=50,
        negatives_max=300,
        size_power=0.5,
        trees_max=120,
        tree_depth=5,
        leaf_weight_min=20,
        tree_features=0.5,
        learning_rate=0.1,
        patience_trees=20,
    ),
}

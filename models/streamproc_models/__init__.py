"""The recommender: pure code from events to features, candidates, matrix and scores; training and the bundle."""

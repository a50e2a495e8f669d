"""The daemons: the recommender, the archive, and the demonstration that runs them end to end."""

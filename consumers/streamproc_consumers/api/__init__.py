"""The HTTP API: recommendations on demand from the states that the recommender keeps, and events into its stream."""

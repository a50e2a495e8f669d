"""The live page: a shop whose recommendations follow what its visitor does, beside the engine that makes them."""

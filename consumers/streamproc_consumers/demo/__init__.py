"""The demonstration: real shopping data through the whole system on one machine, and the proof from what landed."""

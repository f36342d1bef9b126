"""Optimizers: which there are, what they keep, when they update, at which learning rate."""

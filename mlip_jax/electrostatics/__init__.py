"""Electrostatics: sums over periodic images, and charges that follow from the positions."""

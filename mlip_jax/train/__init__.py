"""Fitting potentials."""

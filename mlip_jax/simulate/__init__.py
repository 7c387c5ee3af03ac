"""Molecular dynamics and relaxation on jax-md."""

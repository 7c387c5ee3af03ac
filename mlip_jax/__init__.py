"""mlip_jax: every family of machine-learning interatomic potential as one pure JAX function."""

__version__ = "0.1.0"

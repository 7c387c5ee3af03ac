"""Descriptors of atomic environments: graph -> [atoms, features]."""

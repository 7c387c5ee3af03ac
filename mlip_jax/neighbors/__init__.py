"""Neighbour lists as rows: on the host (vesin) and on the device (jax-md), giving the same graph."""

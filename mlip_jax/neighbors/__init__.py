"""Neighbour lists as rows, on the host (vesin) and on the device, giving the same graph."""

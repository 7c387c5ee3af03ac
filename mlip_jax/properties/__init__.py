"""Properties of materials as functions of a potential's variables and a structure's graph."""

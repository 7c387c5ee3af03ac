"""The registry: one name for each model, and modules as configs.

In a config a module is `{name: {field: value, ...}}`; nested modules look the same. Names resolve
to a linen class or to a preset, a function that returns a module.
"""

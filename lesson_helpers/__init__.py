"""The small package behind the notebooks of "Using Pixi environments on HTC systems".

One module, one subject; nothing happens at import. Start with :mod:`lesson_helpers.cli` (the command)
or with the module that a notebook imports.
"""

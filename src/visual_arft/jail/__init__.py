"""The inside of the sandbox: the zygote, the children it forks, and how a child confines itself.

Nothing here imports the rest of the package, so that the zygote starts quickly and holds nothing of
the trainer. `visual_arft.sandbox` is the outside. What is promised is in docs/sandbox.md.
"""

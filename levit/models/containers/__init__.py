"""What checkpoints come in: safetensors, PyTorch's files, shards. One module per format.

`shards` finds the file or files at a path, `file` reads one by what it begins with, `state_dict`
decides which of a saved object's parts are the weights. Nothing in here knows a model.
"""

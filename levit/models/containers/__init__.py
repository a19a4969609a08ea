"""Files that hold checkpoints: safetensors, PyTorch's, shards. One module per format.

`shards` finds the file or files at a path, `file` tells a file's format and reads it, `state_dict`
chooses the part of a saved object that holds the weights. Nothing in here knows a model.
"""

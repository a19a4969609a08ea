"""Vision transformers of one width: the network of DeiT, ConViT and plain ViT.

A family is a table of variants, the tensor names of its sources, and its preprocessing
(`levit.models.deit` is the pattern); all else, from the shapes to the dataflow, is here.
"""

"""Vision transformers of one width: what DeiT, ConViT and plain ViT share.

A family is a table of variants, the tensor names of its sources, and a `Traits` record
(`levit.models.deit` is the pattern); all else, from the shapes to the dataflow, is here.
"""

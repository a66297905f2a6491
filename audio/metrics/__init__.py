"""Metrics of generated audio, from what a classifier says of generated clips and of recorded ones.

Every metric is a function of tensors, one a file; `suite` computes them together, `bootstrap` gives them
intervals, and `published` is how the code behind the published numbers computes two of them.
"""

"""Metrics of generated audio from a classifier's predictions for generated and recorded clips.

Every metric is a function of tensors in a file of its own. `suite` computes all of them, `bootstrap` adds
intervals, and `published` reproduces two scores of published code.
"""

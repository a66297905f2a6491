"""Evaluation of generated audio: classifier, likelihood, sources, report and plots."""

"""Models: sequence, multi-scale, classifier, and the baselines of raw audio."""

"""Evaluation of generated audio: classifier and likelihood."""

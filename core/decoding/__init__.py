"""Decoding: sampling from a model one token at a time, with one engine per kind of device."""

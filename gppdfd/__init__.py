"""Structured pruning and knowledge distillation of pre-trained language encoders on one common interface."""

__version__ = "0.1.0"

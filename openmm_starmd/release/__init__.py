"""Weights before they are handed on: checked, converted, described."""

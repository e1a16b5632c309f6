"""Rigid transforms and rotated rectangles."""

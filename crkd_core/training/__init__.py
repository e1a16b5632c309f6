"""Optimisation, schedules, and evaluation with the official metric."""

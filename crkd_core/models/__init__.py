"""The networks of CRKD, composed by a recipe: see ``detector.FusionDetector``."""

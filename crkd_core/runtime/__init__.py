"""Inference: a SensorFrame in, Detections out; and the frame assembler that live and offline use share."""

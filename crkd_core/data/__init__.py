"""Data: the nuScenes index, sensor frames, radar features, images, augmentation, network input and training samples."""

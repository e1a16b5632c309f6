"""Pictures of frames and boxes: cameras, bird's-eye view, sheets and videos. Images are RGB uint8 (H, W, 3)."""

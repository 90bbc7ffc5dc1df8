"""Recognition while a video is still going on: cameras, network streams, frames as they come."""

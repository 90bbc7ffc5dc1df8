"""From a video file to the tensor that a method reads.

`decode` takes exact frames out of a file, `sampling` says which ones, `transforms` turns them into a
normalised video, `dataset` does so for folders and lists of files, `labels` reads class names. Each is
imported by its own name, so that a command that needs no tensors does not wait for torch.
"""

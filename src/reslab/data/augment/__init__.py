"""Training augmentation: one record of options; whole batches on any device, or photographs one by one.

``options`` what can be asked for; ``geometry`` ``colour`` operations with parameters of their own for every image of a
batch; ``policies`` operations drawn at random; ``erase`` ``mix`` what happens to normalised batches; ``pipeline`` the
order of it all, for images in memory; ``photos`` the same for images that are decoded one by one.
"""

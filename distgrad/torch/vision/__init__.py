"""What answers ``import torchvision``: data sets from files at hand, transforms, networks, boxes.

Images are Pillow's, as there.
"""

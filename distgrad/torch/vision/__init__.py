"""What answers ``import torchvision``: data sets from files at hand, and the common transforms.

Images are Pillow's, as there. Models and operations of torchvision are not here.
"""

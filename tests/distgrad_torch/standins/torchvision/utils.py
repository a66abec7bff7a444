"""Pictures that nobody looks at."""


def save_image(*args, **options):
    """Nothing."""


def make_grid(tensor, *args, **options):
    """The tensor."""
    return tensor

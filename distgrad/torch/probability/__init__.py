"""Probability distributions: what ``torch.distributions`` is made of."""

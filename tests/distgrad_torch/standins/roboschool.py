"""Stands in for roboschool, of whose environments none is used."""

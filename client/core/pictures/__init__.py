"""Seeded photographs of food packages, each with its nutrition table and the true box of it."""

from client.core.pictures.photo import synthetic

__all__ = ["synthetic"]

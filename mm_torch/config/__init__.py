"""Recipes: schema and loading."""

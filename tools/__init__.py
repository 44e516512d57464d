"""Scripts a person runs; the training package never imports them."""

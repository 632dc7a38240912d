"""Sweeps over settings with Ray Tune; the package itself does not import them."""

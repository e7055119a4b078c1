"""Models from images: one loop, a file per loss in `losses`, a file per way to give an example its sigma in `regimes`."""

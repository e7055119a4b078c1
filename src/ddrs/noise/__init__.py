"""What is added to an image.

`norms`: which norm a noise certifies: l2 for Gaussian, l1 for uniform.
`laws`: Gaussian and uniform noise in float32: how it is drawn, the radius it certifies, the objective that a search ascends.
`lattice`: the same laws on the pixel grid of 1/255, exactly, with a proven bound on the sampler's error.
`streams`: samples as a function of a key (seed, purpose, split, image, block): the same alone and in any batch.

A sample that chooses never certifies: the purpose is in the key.
"""

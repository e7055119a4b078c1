"""What is added to an image.

`norms`: which norm a noise certifies: l2 for Gaussian, l1 for uniform; the noise on the pixel grid for each law.
`bits` -> `kernels` -> `samplers`: AES of counters, the loops over them, and noisy copies that are integers of an exact law on a grid.
`laws`: the four noises by their names: the sampler at a scale, the radius that each certifies, the objective that a search ascends.
`lattice`: which images a noise can certify, and which noise is best for an image.
`streams`: samples as a function of a key (seed, purpose, split, image) and their number: the same alone and in any batch.

A sample that chooses never certifies: the purpose is in the key.
"""

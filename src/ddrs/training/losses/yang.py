"""Yang et al. (2020): cross-entropy on images with uniform noise, for l1 certificates; sigma is lambda, the noise's half-width."""

from ddrs.training.losses.cohen import Settings, loss, noise_samples

__all__ = ["NOISE", "Settings", "loss", "noise_samples"]

NOISE = "uniform"  # what the method trains with, and so what its models are searched and certified with

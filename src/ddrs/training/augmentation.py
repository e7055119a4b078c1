"""Random crops and flips of a batch."""

import torch
import torch.nn.functional as F


def augment(x: torch.Tensor, kind: str, generator: torch.Generator) -> torch.Tensor:
    """Random crops of the image padded by 4 (crop-flip) and horizontal flips (flip, crop-flip), each image on its own."""
    if kind == "none":
        return x
    size, (height, width) = len(x), x.shape[-2:]
    if kind == "crop-flip":
        corner = torch.randint(0, 9, (2, size), generator=generator).to(x.device)
        rows = corner[0][:, None] + torch.arange(height, device=x.device)
        columns = corner[1][:, None] + torch.arange(width, device=x.device)
        padded = F.pad(x, (4, 4, 4, 4)).permute(0, 2, 3, 1)
        x = padded[torch.arange(size, device=x.device)[:, None, None], rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
    flip = (torch.rand(size, generator=generator) < 0.5).to(x.device)
    return torch.where(flip.view(-1, 1, 1, 1), x.flip(-1), x)

"""Networks, and the files and devices that they live on.

Which network: `architectures` (by name), `resnets` (as others publish theirs), `own` (a user's, as package.module:factory).
A file -> `checkpoints`: safetensors that say what they hold; `formats`: how others publish theirs; `preprocessing`: what is done to an image
    first, inside the model.
A model at work -> `running`: eval mode, exact kernels, scores that are checked, one image or a batch; `rowwise`:
    whether scores are each image's alone, whatever else is in its batch. Faster -> `layout`: folded and laid out; `tangents`: with the
    scores' derivatives along a direction, by a second forward pass.
Where -> `devices`: threads, device and scratch folder of a step; `cards`: one GPU per job on a machine with several.

Nothing here knows a training method, a noise or a certificate.
"""

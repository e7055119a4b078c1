"""How an example gets its sigma in training. A regime is one file here: `Settings`, `image_gradients` and `sigmas`.

Its name is the folder of its models under results/models; it imports torch in functions only.
"""

from ddrs.registry import Folder

REGIMES = Folder("regime", __name__)
